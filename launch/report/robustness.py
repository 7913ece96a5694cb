"""The report's section on degraded scans: the results of `fmct robustness`, as a table and curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fmct_hpc.robustness.changes import CHANGES
from fmct_hpc.robustness.figures import SCHEMA
from fmct_hpc.robustness.run import TABLE
from launch.report.document import Block, Cell, Gallery, Picture, Section, Text, cell, interval
from launch.report.figure_names import figure_name
from launch.report.figures import COLOURS, svg, themed
from launch.report.probe import varying
from launch.report.probe_figures import LINES, MARKERS
from launch.report.results import features, split_in_words
from launch.report.rows import read_rows, without_figures

MAX_CURVES = 8
"""Maximum number per panel: more are indistinguishable."""

Row = dict[str, Any]


def robustness_section(folder: Path) -> Section:
    """Figures by severity; raises FmctError if the table is missing."""
    rows = read_rows(folder / TABLE, SCHEMA, "fmct robustness")
    measured = [row for row in rows if row["reason"] is None]
    note = (
        "The same classifiers on the same test volumes with thicker slices, other kernels or added noise; "
        "nothing is refitted. Severity 0 is the unchanged volumes; differences are relative to it, "
        "over the same resamples of patients."
    )
    blocks: list[Block] = [Text(note)]
    if measured:
        level = f"{measured[0]['confidence']:.0%}"
        blocks += [Gallery(_curves(measured, level)), _table(measured, level)]
    blocks += without_figures(rows)
    return Section("Robustness", tuple(blocks))


def _table(rows: Sequence[Row], level: str) -> Block:
    columns: dict[str, list[Cell]] = {
        "task": [cell(row["task"]) for row in rows],
        "encoder": [cell(row["encoder"]) for row in rows],
        "method": [cell(row["method"]) for row in rows],
        "features": [cell(features(row)) for row in rows],
        "tested on": [cell(split_in_words(row["split"])) for row in rows],
        "volumes": [cell(row["n"]) for row in rows],
        "change": [cell(CHANGES[row["change"]].what) for row in rows],
        "severity": [
            Cell(f"{row['severity']:g} {row['unit']}", row["severity"], number=True) for row in rows
        ],
        "figure": [cell(figure_name(row["figure"])) for row in rows],
        f"value [{level}]": [interval(row["value"], row["low"], row["high"]) for row in rows],
        f"difference [{level}]": [_difference(row) for row in rows],
    }
    return varying("Degraded scans", columns, TABLE)


def _difference(row: Row) -> Cell:
    if not row["severity"]:
        return cell(None)
    return interval(row["difference"], row["difference_low"], row["difference_high"], "+.3f")


def _curves(rows: Sequence[Row], level: str) -> tuple[Picture, ...]:
    """One panel per change, for the first figure, test set, method and features of the table."""
    first = rows[0]
    same = ("figure", "split", "method", "pool", "layer")
    shown = [row for row in rows if all(row[name] == first[name] for name in same)]
    curves = list(dict.fromkeys((row["task"], row["encoder"]) for row in shown))[:MAX_CURVES]
    encoders = {encoder for _, encoder in curves}
    what = figure_name(first["figure"])
    pictures = []
    for change in dict.fromkeys(row["change"] for row in shown):
        title = f"{what} under {CHANGES[change].what}, {first['method']}, {split_in_words(first['split'])}"
        with themed():
            figure = Figure(figsize=(4.6, 3.2), layout="constrained")
            axes = figure.subplots()
            for number, (task, encoder) in enumerate(curves):
                own = [r for r in shown if (r["task"], r["encoder"], r["change"]) == (task, encoder, change)]
                own.sort(key=lambda row: row["severity"])
                severities = [row["severity"] for row in own]
                colour, name = COLOURS[number], f"{task} · {encoder}" if len(encoders) > 1 else task
                axes.plot(
                    severities,
                    [row["value"] for row in own],
                    color=colour,
                    marker=MARKERS[number],
                    linestyle=LINES[number % len(LINES)],
                    markersize=4,
                    label=name,
                )
                low, high = [row["low"] for row in own], [row["high"] for row in own]
                axes.fill_between(severities, low, high, color=colour, alpha=0.12, linewidth=0)
            axes.set(xlabel=f"{CHANGES[change].what}, {CHANGES[change].unit}", ylabel=what)
            ticks = sorted({row["severity"] for row in shown if row["change"] == change})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            figure.legend(loc="outside upper center", ncols=2)
            drawn = svg(figure, f"robustness-{change}", title)
        pictures.append(Picture(drawn, f"{title}; shaded: {level} intervals."))
    return tuple(pictures)
