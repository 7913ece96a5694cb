"""Keying a table of labels as the volumes are keyed."""

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from preprocess.csv_file import csv_lines
from preprocess.deidentify import Pseudonymizer
from shards.atomic import atomic_path
from shards.errors import FmctError

STUDY_COLUMN = "study_instance_uid"
PATIENT_COLUMN = "patient_id"
"""May stand in the table for people to read; it is left out."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_UID = re.compile(r"[0-9][0-9.]{0,63}")  # PS3.5 section 9.1
_VALUES = {"0": 0, "1": 1, "": None}


def key_labels(csv_file: Path, key_file: Path, out: Path) -> int:
    """Write the labels of `csv_file` as Parquet with studies' pseudonyms; returns the number of studies.

    The CSV (UTF-8, commas, header) has a column study_instance_uid, and otherwise labels: 0, 1, or
    nothing where unknown. A column patient_id is left out. The Parquet has study_key and an int8 column
    a label, null where unknown, its rows ordered by study_key.

    Raises FmctError, naming row and column, for anything else: free text can hold identifiers.
    """
    names = Pseudonymizer(key_file)
    labels: list[str] = []
    rows: dict[str, list[int | None]] = {}
    for line, cells in _read(csv_file):
        if not labels:
            labels = _label_columns(csv_file, list(cells))
        study = cells[STUDY_COLUMN].strip()
        if not _UID.fullmatch(study):
            raise FmctError(
                f"{csv_file} row {line}, column {STUDY_COLUMN}: not a UID of digits and dots; mend it"
            )
        key = names.study(study)
        if key in rows:
            raise FmctError(f"{csv_file} row {line}: its study is in an earlier row; keep one row a study")
        rows[key] = [_value(csv_file, line, label, cells[label]) for label in labels]
    if not rows:
        raise FmctError(f"{csv_file}: no rows; give a header and one row a study")
    keys = sorted(rows)
    columns = {"study_key": pa.array(keys, pa.string())}
    for number, label in enumerate(labels):
        columns[label] = pa.array([rows[key][number] for key in keys], pa.int8())
    with atomic_path(out) as temporary:
        pq.write_table(pa.table(columns), temporary)
    return len(keys)


def _read(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column of each row; blank lines are passed over."""
    lines = csv_lines(path, f"give a CSV with {STUDY_COLUMN} and 0/1 columns")
    header = [name.strip() for name in next(lines, (0, []))[1]]
    for line, cells in lines:
        if not cells:
            continue
        if len(cells) != len(header):
            found = f"{len(cells)} cells, the header has {len(header)}"
            raise FmctError(f"{path} row {line}: {found}; mend it")
        if len(set(header)) < len(header):
            raise FmctError(f"{path}: a column name occurs twice in the header; rename one")
        yield line, dict(zip(header, cells, strict=True))


def _label_columns(path: Path, header: list[str]) -> list[str]:
    if STUDY_COLUMN not in header:
        raise FmctError(f"{path}: no column {STUDY_COLUMN}; name the one with Study Instance UIDs so")
    labels = [name for name in header if name not in (STUDY_COLUMN, PATIENT_COLUMN)]
    if not labels:
        raise FmctError(f"{path}: no label column; add columns of 0, 1 or nothing")
    for number, name in enumerate(header, 1):
        if not _NAME.fullmatch(name) or name == "study_key":
            raise FmctError(f"{path}: column {number} needs a name of letters, digits and _, not study_key")
    return labels


def _value(path: Path, line: int, column: str, cell: str) -> int | None:
    try:
        return _VALUES[cell.strip()]
    except KeyError:
        # The cell itself is not repeated: it may be a name.
        raise FmctError(
            f"{path} row {line}, column {column}: not 0, 1 or empty; mend it or drop the column"
        ) from None
