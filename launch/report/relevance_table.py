"""What `fmct relevance --masks` measured, on a page and on the screen."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from launch.report.document import Cell, Section, Text, cell, interval, table
from shards.errors import FmctError

MEASURES = "measures.parquet"
_MAPS = {
    "classifier": "the classifier's",
    "beside": "the other classifier's",
    "random": "random",
    "tissue": "tissue",
    "centre": "the middle",
    "greatest": "the best possible",
}


def read_measures(folder: Path) -> pa.Table:
    """Of an output folder of `fmct relevance --masks`; raises FmctError where there are none."""
    if not (folder / MEASURES).is_file():
        raise FmctError(f"{folder}: holds no {MEASURES}; `fmct relevance --masks` writes it")
    return pq.read_table(folder / MEASURES)


def figures_section(measures: pa.Table) -> Section:
    """A table of all rows, and what they mean."""
    rows = measures.to_pylist()
    tolerance = f"{rows[0]['tolerance_mm']:g}" if rows else "0"
    note = (
        "Share: the part of a map's positive values that lies within the true mask. Pointed: in how many "
        f"volumes the middle of the greatest patch lies within {tolerance} mm of it. Beside the classifier's "
        "own maps stand those that know nothing of it, with the classifier's gain over them; the best "
        "possible is all relevance in the one patch that the mask fills most. Intervals are of 95 % over "
        "patients."
    )
    columns = ("label", "volumes", "method", "map", "share", "gain of share", "pointed", "gain of pointed")
    return Section("Why", (Text(note), table("Maps against masks", columns, map(_cells, rows))))


def printed(measures: pa.Table) -> str:
    """The classifier's rows as lines."""
    lines = []
    for row in measures.to_pylist():
        if row["group"] == "all":
            share, pointed = (_value(row, figure).text for figure in ("share", "pointed"))
            what = f"{row['task']}, {row['method']}, {_MAPS[row['map']]}"
            lines.append(f"{what} ({row['volumes']} volumes): share {share}, pointed {pointed}")
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
