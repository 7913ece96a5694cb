"""The study's report: Markdown, with figures in the same folder."""

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
"""Largest label fraction that counts as few labels, for the main comparison."""
METHODS: tuple[Method, ...] = ("finetune", "frozen")


def write_report(config: StudyConfig, out: Path, heads: Heads) -> str:
    """Write `out`/results.parquet, the figures and report.md from the finished cells.

    Returns the text of the main comparison. Missing cells are left out.
    """
    known = areas(config, out, heads)
    table = results(config, known)
    with atomic_path(out / "results.parquet") as temporary:
        pq.write_table(table, temporary)
    rows: list[Row] = table.to_pylist()
    figures = plot_all(config, table, out) if rows else []
    digest = hashlib.sha256((out / "results.parquet").read_bytes()).hexdigest()
    comparison = f"{_above_scratch(config, rows)}\n\n{_compared_with_parts(config, known)}".strip()
    parts = [
        "# Does pretraining help? Synthetic heads",
        f"`fmct study`, fmct-hpc {version('fmct-hpc')}; the configuration is config.json in this folder.\n"
        f"SHA-256 of results.parquet: `{digest}`",
        _unfinished(config, rows),
        "## Main comparison",
        comparison,
        "## Cohort",
        _cohort(config),
        "## Label efficiency",
        f"AUC, mean over {len(config.seeds)} draws of labelled heads ({_pretrainings(config)}), "
        f"[{config.confidence:.0%} interval over a bootstrap of heads, pretrainings and draws]; mean of the "
        f"{len(Finding)} findings; pretrained on {max(config.sizes)} heads.",
        _by_fraction(config, rows, MEAN),
        _figure(figures, 0),
        "## Results by finding",
        f"At {config.compared_fraction:.0%} of the labels, seen scanners.",
        _by_finding(config, rows),
        "## Data scaling",
        f"At {config.compared_fraction:.0%} of the labels, mean of the findings; all pretrainings of an "
        f"objective have the same number of {config.passes}.",
        _by_size(config, rows),
        _figure(figures, 1),
        "## Seen and unseen scanners",
        _figure(figures, 2),
    ]
    text = "\n\n".join(part for part in parts if part)
    write_text(out / "report.md", text + "\n")
    return comparison


def _pretrainings(config: StudyConfig) -> str:
    return ", ".join(
        f"{name}: {objective.pretrainings} pretrainings, {objective.draws or len(config.seeds)} draws"
        for name, objective in config.objectives.items()
    )


def _unfinished(config: StudyConfig, rows: Sequence[Row]) -> str:
    """A note for the report of an unfinished study."""
    cells = all_cells(config)
    per_cell = len(TESTS) * (len(Finding) + 1)
    done = sum(len(row["by_seed"]) for row in rows) // per_cell
    return f"**Unfinished: {done} of {len(cells)} cells.**" if done < len(cells) else ""


def _above_scratch(config: StudyConfig, rows: Sequence[Row]) -> str:
    """For each objective and method, the findings with an interval above that of scratch, at few labels."""
    fractions = [fraction for fraction in config.fractions if fraction <= FEW_LABELS]
    scratch = {(row["fraction"], row["test"], row["finding"]): row for row in rows if row["arm"] == "scratch"}
    lines = []
    for arm in config.objectives:
        for method in METHODS:
            for fraction in fractions:
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
        f"Number of findings, of {len(Finding)}, for which a pretrained encoder's interval lies entirely "
        "above that of training from scratch (the same network, code and steps):\n\n"
        + _table(["encoder", "labels", *(f"{test} scanners" for test in TESTS)], lines)
    )


def _compared_with_parts(config: StudyConfig, known: Mapping[tuple[Key, str], Areas]) -> str:
    """For each combined objective: its difference from the best of its parts, at every label fraction."""
    size, lines = max(config.sizes), []
    for arm, objective in config.objectives.items():
        for method in METHODS:
            for test in TESTS:
                cells = []
                for fraction in config.fractions:
                    mine = known.get(((arm, method, size, fraction), test))
                    parts = {
                        part: part_areas
                        for part in objective.parts
                        if (part_areas := known.get(((part, method, size, fraction), test)))
                    }
                    cells.append(_difference(config, mine, parts) if mine and parts else "")
                if any(cells):
                    lines.append([arm_name(arm, method), f"{test} scanners", *cells])
    if not lines:
        return ""
    return (
        "A combined objective minus the best of its parts, mean of the findings, "
        f"[{config.confidence:.0%} interval of the difference, over the same heads]:\n\n"
        + _table(["encoder", "", *(f"{fraction:.0%}" for fraction in config.fractions)], lines)
    )


def _difference(config: StudyConfig, mine: Areas, parts: Mapping[str, Areas]) -> str:
    best = max(parts, key=lambda part: parts[part].mean[-1])
    low, high = interval(mine.resampled[:, -1] - parts[best].resampled[:, -1], config)
    return f"{mine.mean[-1] - parts[best].mean[-1]:+.3f} [{low:+.3f}, {high:+.3f}] ({best})"


def _above(rows: Iterable[Row], scratch: dict[tuple[float, str, str], Row], test: str) -> str:
    above = [
        row["finding"]
        for row in rows
        if row["test"] == test
        and row["finding"] != MEAN
        and (base := scratch.get((row["fraction"], test, row["finding"])))
        and row["low"] > base["high"]
    ]
    return f"{len(above)}" + (f": {', '.join(above)}" if above else "")


def _cohort(config: StudyConfig) -> str:
    cohort = config.cohort
    seen = {finding: visibility(cohort, finding) for finding in Finding}
    lines = [
        [finding.value, DIFFICULTY[finding], f"{it.voxels:.0f}", f"{it.change:.0f}", f"{it.ratio:.1f}"]
        for finding, it in seen.items()
    ]
    return (
        f"{cohort.unlabelled} heads for pretraining ({cohort.labelled} of them with labels), "
        f"{cohort.validation} for validation, {cohort.test} test heads of the same four scanners and "
        f"{cohort.unseen} of two others; {cohort.edge}³ voxels of {cohort.spacing_mm:g} mm; heads rotated by "
        f"{TURN_DEG:g} degrees about and shifted by {OFFSET_MM:g} mm along each axis (standard deviations); "
        f"noise of 3.5 to 6.5 HU per voxel; each finding in {cohort.prevalence:.0%} of the heads, "
        f"independent of the others; seed {cohort.seed}.\n\n"
        + _table(["finding", "size and contrast", "voxels", "change, HU", "change / SD of brain"], lines)
        + "\n\nNumber of voxels that a finding changes by at least half of its maximum change, mean change "
        f"there (within {BRAIN_WINDOW[0]} to {BRAIN_WINDOW[1]} HU), and its ratio to the standard deviation "
        f"of brain and CSF (anatomy and noise). Medians over {HEADS} heads, each compared with the same head "
        "without the finding."
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
    """One line per arm and method, with one cell per value of `along`."""
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
