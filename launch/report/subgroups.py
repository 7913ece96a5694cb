"""The report's section on subgroups of scans: the output of `fmct subgroups` in a probe's folder."""

from pathlib import Path
from typing import Any

from fmct_hpc.probe.subgroups import BANDS, NAMED, SCHEMA, TABLE
from launch.report.document import Block, Bullets, Cell, Section, Text, cell, interval
from launch.report.probe import varying
from launch.report.results import features, split_in_words
from launch.report.rows import read_rows

FACTS = {
    "manufacturer": "manufacturer",
    "kernel_class": "kernel",
    "slice_thickness_mm": "slice thickness, mm",
    "slices": "slices",
    "kvp": "tube voltage, kV",
}
"""Display names of the acquisition attributes."""
assert {*NAMED, *BANDS} == set(FACTS)


def subgroups_section(folder: Path) -> Section | None:
    """Acquisition groups compared with all other volumes; None if the folder has no such table.

    A site's own groups (age, sex, ward) are left out: readers of a report may not be permitted to see them.
    """
    if not (folder / TABLE).is_file():
        return None
    rows = read_rows(folder / TABLE, SCHEMA, "fmct subgroups")
    shown = [row for row in rows if row["by"] in FACTS]
    measured = [row for row in shown if row["reason"] is None]
    apart = [
        row for row in measured if row["gap"] is not None and (row["gap_low"] > 0 or row["gap_high"] < 0)
    ]
    compared = sum(row["gap"] is not None for row in measured)
    note = (
        "The predictions above, by acquisition. The gap is a group's AUC minus that of all other "
        "volumes, over the same resamples of patients. If a group's mean prediction differs from its share "
        "of positives, the classifier is miscalibrated in that group."
    )
    if compared:
        note += f" For {len(apart):,} of {compared:,} groups the interval of the gap excludes 0; with many "
        note += "groups, some do so by chance."
    blocks: list[Block] = [Text(note)]
    if measured:
        columns: dict[str, list[Cell]] = {
            "task": [cell(row["task"]) for row in measured],
            "encoder": [cell(row["encoder"]) for row in measured],
            "method": [cell(row["method"]) for row in measured],
            "features": [cell(features(row)) for row in measured],
            "tested on": [cell(split_in_words(row["split"])) for row in measured],
            "by": [cell(FACTS[row["by"]]) for row in measured],
            "group": [cell(row["group"]) for row in measured],
            "volumes": [cell(row["n"]) for row in measured],
            "patients": [cell(row["patients"]) for row in measured],
            "AUC [interval]": [interval(row["auc"], row["auc_low"], row["auc_high"]) for row in measured],
            "gap [interval]": [_gap(row) for row in measured],
            "positive": [cell(row["positives"] / row["n"], ".3f") for row in measured],
            "mean prediction": [cell(row["predicted"], ".3f") for row in measured],
        }
        blocks.append(varying("Subgroups of scans", columns, TABLE))
    refused = sum(row["reason"] is not None for row in shown)
    notes = (
        [f"{refused:,} groups of a result have volumes of one class only and therefore no AUC"]
        if refused
        else []
    )
    left = len({(row["by"], row["group"]) for row in rows if row["by"] not in FACTS})
    if left:
        notes.append(f"{left:,} of the site's own groups are only in {TABLE}")
    blocks += [Bullets(tuple(f"{one}." for one in notes))] if notes else []
    return Section("By scanner, kernel, slices", tuple(blocks))


def _gap(row: dict[str, Any]) -> Cell:
    return cell(None) if row["gap"] is None else interval(row["gap"], row["gap_low"], row["gap_high"], "+.3f")
