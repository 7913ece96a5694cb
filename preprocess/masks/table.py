"""The table of `fmct masks`: one row per mask file, with its volume."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from preprocess.csv_file import table_lines
from preprocess.reasons import Reason, Rejection
from shards.errors import FmctError

PATH, CLASS, KEY, STUDY_KEY = "path", "class", "key", "study_key"
STUDY, SERIES, PATIENT = (
    ("study_instance_uid", "study"),
    ("series_instance_uid", "series"),
    ("patient_id", "patient"),
)
"""Identifier columns, named as in tables of labels and of `fmct import`."""
KNOWN = (PATH, CLASS, KEY, STUDY_KEY, *STUDY, *SERIES, *PATIENT)
_WANTED = f"give a CSV or Parquet table with path and one of {KEY}, {STUDY_KEY}, {STUDY[0]} and {STUDY[1]}"
_KEY = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class Row:
    """One row."""

    number: int
    """Its line in a CSV, or its row in a Parquet file, from 1."""
    cells: Mapping[str, str]
    """Stripped cells of the table's columns."""
    objection: str | None = None
    """Why the row itself is invalid, or None."""

    def of(self, names: tuple[str, ...]) -> str:
        """The first non-empty one of these cells."""
        return next((self.cells[name] for name in names if self.cells.get(name)), "")

    def key(self, name: str) -> str:
        """A pseudonym's cell, empty if missing; raises Rejection for anything else."""
        text = self.cells.get(name, "")
        if text and not _KEY.fullmatch(text):
            raise Rejection(Reason.INVALID_VALUE, f"column {name}: not 32 hexadecimal digits; correct it")
        return text


def read_rows(table: Path) -> tuple[list[Row], frozenset[str]]:
    """The rows and the columns of the table; FmctError if it is not such a table."""
    lines = table_lines(table, _WANTED)
    header = [name.strip() for name in next(lines, (0, []))[1]]
    columns = frozenset(header)
    if PATH not in columns or not columns & {KEY, STUDY_KEY, *STUDY}:
        raise FmctError(f"{table}: no column {PATH}, or no column that identifies a mask's study; {_WANTED}")
    if len(columns) < len(header):
        raise FmctError(f"{table}: a column name occurs twice in the header; rename one")
    if columns & set(SERIES) and not columns & set(PATIENT):
        raise FmctError(
            f"{table}: keys depend on patient, study and series: add the column {PATIENT[0]}, or leave "
            f"{SERIES[0]} out"
        )
    rows = []
    for number, values in lines:
        if not values:
            continue
        by_column = dict(zip(header, values, strict=False))
        cells = {name: by_column.get(name, "").strip() for name in KNOWN if name in columns}
        fits = len(values) == len(header)
        rows.append(
            Row(number, cells, None if fits else f"{len(values)} cells, the header has {len(header)}")
        )
    if not rows:
        raise FmctError(f"{table}: no rows; {_WANTED}")
    return rows, columns
