"""The report's part about groups of scans: what `fmct subgroups` left beside a probe's results."""

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
"""In words, the facts of acquisition."""
assert {*NAMED, *BANDS} == set(FACTS)


def subgroups_section(folder: Path) -> Section | None:
    """Groups of acquisition beside all other volumes; None where the folder has no such table.

    A site's own groups (age, sex, a ward) stay in the table: who reads a report may not be who may see them.
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
        "The predictions above by facts of the scans. The gap is a group's AUC less that of all other "
        "volumes, over the same resamples of patients. A mean prediction far from the share of positives is "
        "of a group in which the classifier is too sure or too unsure."
    )
    if compared:
        note += f" Of {compared:,} groups {len(apart):,} lie apart by their interval; of so many some do "
        note += "by chance."
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
        blocks.append(varying("Groups of scans", columns, TABLE))
    refused = sum(row["reason"] is not None for row in shown)
    said = [f"{refused:,} groups of a result have volumes of one class only, and no AUC"] if refused else []
    left = len({(row["by"], row["group"]) for row in rows if row["by"] not in FACTS})
    if left:
        said.append(f"{left:,} of the site's own groups are in {TABLE} alone")
    blocks += [Bullets(tuple(f"{one}." for one in said))] if said else []
    return Section("By scanner, kernel, slices", tuple(blocks))


def _gap(row: dict[str, Any]) -> Cell:
    return cell(None) if row["gap"] is None else interval(row["gap"], row["gap_low"], row["gap_high"], "+.3f")
