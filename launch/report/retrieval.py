"""The report's part about how well volumes of a label find one another: what `fmct retrieval` measured."""

from pathlib import Path
from typing import Any

from fmct_hpc.retrieval.run import SCHEMA, TABLE
from launch.report.document import Block, Cell, Section, Text, cell, interval
from launch.report.probe import varying
from launch.report.results import features, split_in_words
from launch.report.rows import read_rows, without_figures


def retrieval_section(folder: Path) -> Section:
    """Mean average precision and recall beside chance; raises FmctError where there is no table."""
    rows = read_rows(folder / TABLE, SCHEMA, "fmct retrieval")
    measured = [row for row in rows if row["reason"] is None]
    note = (
        "Every tested volume with a label asks for others that have it, by the cosine of features, never "
        "among those of its own patient. Nothing is learned. Intervals are bootstraps over patients; by "
        "chance is what a random order gives."
    )
    blocks: list[Block] = [Text(note)]
    if measured:
        columns: dict[str, list[Cell]] = {
            "task": [cell(row["task"]) for row in measured],
            "encoder": [cell(row["encoder"]) for row in measured],
            "features": [cell(features(row)) for row in measured],
            "tested on": [cell(split_in_words(row["split"])) for row in measured],
            "asked": [cell(row["asked"]) for row in measured],
            "patients": [cell(row["patients"]) for row in measured],
            "mAP [interval]": [_figure(row, "map") for row in measured],
            "mAP by chance": [cell(row["map_by_chance"], ".3f") for row in measured],
            "recall at 10 [interval]": [_figure(row, "recall_10") for row in measured],
            "recall by chance": [cell(row["recall_10_by_chance"], ".3f") for row in measured],
            "search": [cell(_search(row)) for row in measured],
        }
        blocks.append(varying("Retrieval", columns, TABLE))
    blocks += without_figures(rows)
    return Section("Volumes that find one another", tuple(blocks))


def _search(row: dict[str, Any]) -> str:
    """How volumes were ranked: tables of before there was a choice are exact."""
    if not row["candidates"]:
        return row["search"] or "exact"
    return f"{row['search']}, first {row['candidates']:,}, {row['search_recall']:.1%} of the 10 nearest"


def _figure(row: dict[str, Any], name: str) -> Cell:
    return interval(row[name], row[f"{name}_low"], row[f"{name}_high"])
