"""The table of `fmct import`: one row per volume file, with its patient, study and optional attributes."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.csv_file import table_lines
from preprocess.reasons import Reason, Rejection
from shards.errors import FmctError

NEEDED = ("path", "patient", "study")
TEXTS = (
    *("manufacturer", "model", "study_date", "study_description", "series_description", "protocol"),
    *("body_part", "contrast", "contrast_ingredient", "contrast_route"),
)
"""Columns with the same name in `preprocess.dicom.catalog.Texts`."""
NUMBERS = ("kvp", "thickness", "contrast_volume")
"""kV, mm and ml."""
KNOWN = (*NEEDED, "series", "modality", "affine", "kernel", *TEXTS, *NUMBERS)
_WANTED = "give a CSV or Parquet table with path, patient and study"
_SEPARATORS = re.compile(r"[\s,;\[\]()]+")


@dataclass(frozen=True)
class Row:
    """One row."""

    number: int
    """Its line in a CSV, or its row in a Parquet file, from 1."""
    cells: Mapping[str, str]
    """Stripped cells; empty if the table has no such column."""
    objection: str | None = None
    """Why the row itself is invalid, or None."""

    @property
    def identity(self) -> tuple[str, str, str]:
        """Patient, study and series; the path replaces a missing series."""
        series = self.cells["series"] or self.cells["path"]
        return self.cells["patient"], self.cells["study"], series or f"row {self.number}"

    def number_of(self, name: str) -> float | None:
        """The number in a cell; None if it is empty. Raises Rejection(invalid_value) for anything else."""
        text = self.cells[name]
        try:
            value = float(text) if text not in ("", "nan") else None  # pandas writes gaps so to Parquet
        except ValueError:
            value = math.nan
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise Rejection(
                Reason.INVALID_VALUE,
                f"column {name}: not a number of 0 or more; correct it or leave it empty",
            )
        return value

    def affine(self) -> np.ndarray | None:
        """The (4, 4) affine in its cell, 16 numbers by rows; None if it is empty. Raises Rejection."""
        words = [word for word in _SEPARATORS.split(self.cells["affine"]) if word]
        if not words:
            return None
        try:
            values = np.array(words, np.float64)
        except ValueError:
            values = np.empty(0)
        if values.size != 16 or not np.isfinite(values).all() or (values[12:] != (0, 0, 0, 1)).any():
            raise Rejection(
                Reason.INVALID_VALUE, "column affine: expected 16 numbers, row by row, the last row 0 0 0 1"
            )
        return values.reshape(4, 4)


def read_rows(table: Path) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of the table, and its ignored columns.

    Raises FmctError if it is not such a table; errors of a single row are in its `objection`.
    """
    lines = table_lines(table, _WANTED)
    header = [name.strip() for name in next(lines, (0, []))[1]]
    missing = [name for name in NEEDED if name not in header]
    if missing:
        raise FmctError(f"{table}: no column {missing[0]}; {_WANTED}")
    if len(set(header)) < len(header):
        raise FmctError(f"{table}: a column name occurs twice in the header; rename one")
    rows = list(_rows(lines, header))
    if not rows:
        raise FmctError(f"{table}: no rows; {_WANTED}")
    return rows, tuple(name for name in header if name not in KNOWN)


def _rows(lines: Iterator[tuple[int, list[str]]], header: list[str]) -> Iterator[Row]:
    for number, values in lines:
        if not values:
            continue
        fits = len(values) == len(header)
        by_column = dict(zip(header, values, strict=False))
        cells = {name: by_column.get(name, "").strip() for name in KNOWN}
        yield Row(
            number, cells, None if fits else f"{len(values)} cells, the header has {len(header)}; correct it"
        )
