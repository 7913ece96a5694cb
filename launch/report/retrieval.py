"""The report's section on retrieval: the results of `fmct retrieval`."""

from pathlib import Path
from typing import Any

from fmct_hpc.retrieval.run import SCHEMA, TABLE
from launch.report.document import Block, Cell, Section, Text, cell, interval
from launch.report.probe import varying
from launch.report.results import features, split_in_words
from launch.report.rows import read_rows, without_figures


def retrieval_section(folder: Path) -> Section:
    """Mean average precision and recall, compared with chance; raises FmctError if the table is missing."""
    rows = read_rows(folder / TABLE, SCHEMA, "fmct retrieval")
    measured = [row for row in rows if row["reason"] is None]
    note = (
        "Every labelled test volume is a query; volumes of other patients are ranked by the cosine of their "
        "features. No classifier is trained. Intervals are bootstraps over patients; chance is the "
        "expectation of a random ranking."
    )
    blocks: list[Block] = [Text(note)]
    if measured:
        columns: dict[str, list[Cell]] = {
            "task": [cell(row["task"]) for row in measured],
            "encoder": [cell(row["encoder"]) for row in measured],
            "features": [cell(features(row)) for row in measured],
            "tested on": [cell(split_in_words(row["split"])) for row in measured],
            "queries": [cell(row["asked"]) for row in measured],
            "patients": [cell(row["patients"]) for row in measured],
            "mAP [interval]": [_figure(row, "map") for row in measured],
            "mAP, chance": [cell(row["map_by_chance"], ".3f") for row in measured],
            "recall at 10 [interval]": [_figure(row, "recall_10") for row in measured],
            "recall at 10, chance": [cell(row["recall_10_by_chance"], ".3f") for row in measured],
            "search": [cell(_search(row)) for row in measured],
        }
        blocks.append(varying("Retrieval by label", columns, TABLE))
    blocks += without_figures(rows)
    return Section("Retrieval", tuple(blocks))


def _search(row: dict[str, Any]) -> str:
    """The search as text; tables of versions without a choice are exact."""
    if not row["candidates"]:
        return row["search"] or "exact"
    return f"{row['search']}, {row['candidates']:,} candidates, recall at 10 {row['search_recall']:.1%}"


def _figure(row: dict[str, Any], name: str) -> Cell:
    return interval(row[name], row[f"{name}_low"], row[f"{name}_high"])
