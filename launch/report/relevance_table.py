"""The evaluation of `fmct relevance --masks`, for the page and the screen."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from launch.report.document import Cell, Section, Text, cell, interval, table
from shards.errors import FmctError

MEASURES = "measures.parquet"
_MAPS = {
    "classifier": "classifier",
    "beside": "other classifier",
    "random": "random",
    "tissue": "tissue",
    "centre": "centre",
    "greatest": "best possible",
}


def read_measures(folder: Path) -> pa.Table:
    """The measures in an output folder of `fmct relevance --masks`; raises FmctError if it has none."""
    if not (folder / MEASURES).is_file():
        raise FmctError(f"{folder}: no {MEASURES}; `fmct relevance --masks` writes it")
    return pq.read_table(folder / MEASURES)


def figures_section(measures: pa.Table) -> Section:
    """A table of all rows, with an explanation."""
    rows = measures.to_pylist()
    tolerance = f"{rows[0]['tolerance_mm']:g}" if rows else "0"
    note = (
        "Share: the fraction of a map's positive values within the true mask. Pointed: the fraction of "
        f"volumes in which the centre of the highest patch lies within {tolerance} mm of the mask. Baseline "
        "maps do not depend on the classifier; gain is the classifier's advantage over them. The best "
        "possible map has all relevance in the patch that the mask fills most. Intervals are 95 %, over "
        "patients."
    )
    columns = ("label", "volumes", "method", "map", "share", "share, gain", "pointed", "pointed, gain")
    return Section(
        "Relevance maps", (Text(note), table("Maps compared with masks", columns, map(_cells, rows)))
    )


def printed(measures: pa.Table) -> str:
    """The rows over all volumes, as lines."""
    lines = []
    for row in measures.to_pylist():
        if row["group"] == "all":
            share, pointed = (_value(row, figure).text for figure in ("share", "pointed"))
            name = f"{row['task']}, {row['method']}, {_MAPS[row['map']]}"
            lines.append(f"{name} ({row['volumes']} volumes): share {share}, pointed {pointed}")
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> tuple[Cell, ...]:
    of = f"{row['volumes']} {'' if row['group'] == 'all' else row['group']}".strip()
    figures = [part for figure in ("share", "pointed") for part in (_value(row, figure), _gain(row, figure))]
    return (cell(row["task"]), cell(of), cell(row["method"]), cell(_MAPS[row["map"]]), *figures)


def _value(row: dict[str, Any], figure: str) -> Cell:
    return interval(row[figure], row[f"{figure}_low"], row[f"{figure}_high"])


def _gain(row: dict[str, Any], figure: str) -> Cell:
    name = f"{figure}_gain"
    if row[name] is None:
        return cell(None)
    return interval(row[name], row[f"{name}_low"], row[f"{name}_high"], "+.3f")
