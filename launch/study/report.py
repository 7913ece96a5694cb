"""The study's report: Markdown with its figures beside it."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from launch import markdown
from launch.study.cells import Heads, Method
from launch.study.cohort import OFFSET_MM, TURN_DEG
from launch.study.config import StudyConfig
from launch.study.findings import DIFFICULTY, Finding
from launch.study.plan import all_cells
from launch.study.plots import plot_all
from launch.study.results import MEAN, TESTS, Areas, Key, areas, arm_name, interval, results
from launch.study.visibility import BRAIN_WINDOW, HEADS, visibility
from shards.atomic import atomic_path, write_text

Row = dict[str, Any]

FEW_LABELS = 0.1
"""The goal is set at this share of the labels and below."""
METHODS: tuple[Method, ...] = ("finetune", "frozen")


def write_report(config: StudyConfig, out: Path, heads: Heads) -> str:
    """Write `out`/results.parquet, the figures and report.md from the cells that are there.

    Returns what is said of the goal. What is missing is left out, so that a report can be read at any time.
    """
    known = areas(config, out, heads)
    table = results(config, known)
    with atomic_path(out / "results.parquet") as temporary:
        pq.write_table(table, temporary)
    rows: list[Row] = table.to_pylist()
    figures = plot_all(config, table, out) if rows else []
    digest = hashlib.sha256((out / "results.parquet").read_bytes()).hexdigest()
    goal = f"{_above_scratch(config, rows)}\n\n{_beside_parts(config, known)}".strip()
    parts = [
        "# Does pretraining help? Synthetic heads",
        f"`fmct study`, fmct-hpc {version('fmct-hpc')}; config.json beside this file is the configuration.\n"
        f"SHA-256 of results.parquet: `{digest}`",
        _not_done(config, rows),
        "## The goal",
        goal,
        "## The heads",
        _cohort(config),
        "## Label efficiency",
        f"AUC, mean over {len(config.seeds)} draws of labelled heads ({_pretrainings(config)}), "
        f"[{config.confidence:.0%} interval over a bootstrap of heads, pretrainings and draws]; mean of the "
        f"{len(Finding)} findings; pretrained on {max(config.sizes)} heads.",
        _by_fraction(config, rows, MEAN),
        _figure(figures, 0),
        "## Findings",
        f"At {config.compared_fraction:.0%} of the labels, seen scanners.",
        _by_finding(config, rows),
        "## Data scaling",
        f"At {config.compared_fraction:.0%} of the labels, mean of the findings; all pretrainings of an "
        f"objective have as many {config.passes}.",
        _by_size(config, rows),
        _figure(figures, 1),
        "## Seen against unseen scanners",
        _figure(figures, 2),
    ]
    text = "\n\n".join(part for part in parts if part)
    write_text(out / "report.md", text + "\n")
    return goal


def _pretrainings(config: StudyConfig) -> str:
    return ", ".join(
        f"{name}: {objective.pretrainings} pretrained, {objective.draws or len(config.seeds)} draws"
        for name, objective in config.objectives.items()
    )


def _not_done(config: StudyConfig, rows: Sequence[Row]) -> str:
    """What a report of an unfinished study says of it."""
    cells = all_cells(config)
    per_cell = len(TESTS) * (len(Finding) + 1)
    done = sum(len(row["by_seed"]) for row in rows) // per_cell
    return f"**Not finished: {done} of {len(cells)} cells.**" if done < len(cells) else ""


def _above_scratch(config: StudyConfig, rows: Sequence[Row]) -> str:
    """For each objective and method: findings in which its interval lies above scratch's at few labels."""
    few = [fraction for fraction in config.fractions if fraction <= FEW_LABELS]
    scratch = {(row["fraction"], row["test"], row["finding"]): row for row in rows if row["arm"] == "scratch"}
    lines = []
    for arm in config.objectives:
        for method in METHODS:
            for fraction in few:
                mine = [
                    row
                    for row in rows
                    if (row["arm"], row["method"], row["fraction"]) == (arm, method, fraction)
                    and row["size"] == max(config.sizes)
                ]
                cells = [_above(mine, scratch, test) for test in TESTS]
                if mine and scratch:
                    lines.append([arm_name(arm, method), f"{fraction:.0%}", *cells])
    return (
        "Findings in which a pretrained encoder's interval lies wholly above that of training from scratch "
        f"(the same network, code and steps), of {len(Finding)}:\n\n"
        + _table(["encoder", "labels", *(f"{test} scanners" for test in TESTS)], lines)
    )


def _beside_parts(config: StudyConfig, known: Mapping[tuple[Key, str], Areas]) -> str:
    """Of each objective that has parts: how far it lies from the best of them, at every share of labels."""
    size, lines = max(config.sizes), []
    for arm, objective in config.objectives.items():
        for method in METHODS:
            for test in TESTS:
                cells = []
                for fraction in config.fractions:
                    mine = known.get(((arm, method, size, fraction), test))
                    parts = {
                        part: found
                        for part in objective.parts
                        if (found := known.get(((part, method, size, fraction), test)))
                    }
                    cells.append(_beside(config, mine, parts) if mine and parts else "")
                if any(cells):
                    lines.append([arm_name(arm, method), f"{test} scanners", *cells])
    if not lines:
        return ""
    return (
        "An objective of several parts less the best of its parts, by the mean of the findings, "
        f"[{config.confidence:.0%} interval of the difference, over the same heads]:\n\n"
        + _table(["encoder", "", *(f"{fraction:.0%}" for fraction in config.fractions)], lines)
    )


def _beside(config: StudyConfig, mine: Areas, parts: Mapping[str, Areas]) -> str:
    best = max(parts, key=lambda part: parts[part].mean[-1])
    low, high = interval(mine.resampled[:, -1] - parts[best].resampled[:, -1], config)
    return f"{mine.mean[-1] - parts[best].mean[-1]:+.3f} [{low:+.3f}, {high:+.3f}] ({best})"


def _above(rows: Iterable[Row], scratch: dict[tuple[float, str, str], Row], test: str) -> str:
    found = [
        row["finding"]
        for row in rows
        if row["test"] == test
        and row["finding"] != MEAN
        and (base := scratch.get((row["fraction"], test, row["finding"])))
        and row["low"] > base["high"]
    ]
    return f"{len(found)}" + (f": {', '.join(found)}" if found else "")


def _cohort(config: StudyConfig) -> str:
    cohort = config.cohort
    seen = {finding: visibility(cohort, finding) for finding in Finding}
    lines = [
        [finding.value, DIFFICULTY[finding], f"{it.voxels:.0f}", f"{it.change:.0f}", f"{it.ratio:.1f}"]
        for finding, it in seen.items()
    ]
    return (
        f"{cohort.unlabelled} heads without labels ({cohort.labelled} of them with), {cohort.validation} to "
        f"validate on, {cohort.test} of the same four scanners and {cohort.unseen} of two others to test on; "
        f"{cohort.edge}³ voxels of {cohort.spacing_mm:g} mm; heads turned by {TURN_DEG:g} degrees about each "
        f"axis and moved by {OFFSET_MM:g} mm along it (standard deviations); noise of 3.5 to 6.5 HU a voxel; "
        f"each finding in {cohort.prevalence:.0%} of the heads, independent of the others; seed "
        f"{cohort.seed}.\n\n"
        + _table(["finding", "what is drawn", "voxels", "HU", "to the brain's spread"], lines)
        + "\n\nVoxels that a finding changes by half of its greatest change or more, by how many HU "
        f"({BRAIN_WINDOW[0]} to {BRAIN_WINDOW[1]} HU are looked at), and how that compares with the standard "
        f"deviation of brain and CSF, anatomy and noise together. Medians of {HEADS} heads, each beside "
        "itself without the finding."
    )


def _by_fraction(config: StudyConfig, rows: Sequence[Row], finding: str) -> str:
    columns = list(config.fractions)
    blocks = []
    for test in TESTS:
        chosen = [
            row
            for row in rows
            if row["test"] == test and row["finding"] == finding and row["size"] in (0, max(config.sizes))
        ]
        lines = _pivot(chosen, "fraction", columns)
        blocks.append(_table([f"{test} scanners", *(f"{fraction:.0%}" for fraction in columns)], lines))
    return "\n\n".join(blocks)


def _by_finding(config: StudyConfig, rows: Sequence[Row]) -> str:
    chosen = [
        row
        for row in rows
        if row["test"] == "seen"
        and row["fraction"] == config.compared_fraction
        and row["size"] in (0, max(config.sizes))
    ]
    names = [finding.value for finding in Finding]
    return _table(["", *(name.replace("_", " ") for name in names)], _pivot(chosen, "finding", names))


def _by_size(config: StudyConfig, rows: Sequence[Row]) -> str:
    sizes = sorted(config.sizes)
    blocks = []
    for test in TESTS:
        chosen = [
            row
            for row in rows
            if row["test"] == test
            and row["finding"] == MEAN
            and row["fraction"] == config.compared_fraction
            and row["size"]
        ]
        blocks.append(_table([f"{test} scanners", *map(str, sizes)], _pivot(chosen, "size", sizes)))
    return "\n\n".join(blocks)


def _pivot(rows: Sequence[Row], along: str, columns: Sequence[object]) -> list[list[str]]:
    """A line for each arm and method, a cell for each value of `along`."""
    lines: dict[str, dict[object, str]] = {}
    for row in rows:
        name = arm_name(row["arm"], row["method"])
        cell = f"{row['auc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        lines.setdefault(name, {})[row[along]] = cell
    return [[name, *(cells.get(column, "") for column in columns)] for name, cells in lines.items()]


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join([markdown.row(head), f"| {' | '.join(rule)} |", *map(markdown.row, lines)])


def _figure(figures: Sequence[str], number: int) -> str:
    return f"![{figures[number].removesuffix('.svg')}]({figures[number]})" if figures else ""
