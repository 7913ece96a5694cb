"""A table of labels, one row per study, as CSV or Parquet.

It has a column study_instance_uid, or study with the values of a table of `fmct import`. The other columns
are labels: 0, 1, or empty if unknown; columns named in `kinds` hold classes, values, or times to an event. A
column patient_id is allowed and ignored. A column split holds train, validation, test, ood or ood:NAME.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from preprocess.csv_file import table_lines
from preprocess.labels.table import Label, LabelTable
from shards.errors import FmctError
from shards.label_kinds import EXPECTED, KindSpec, Survival, require_several, rules, valid
from shards.split_names import EXPECTED as EXPECTED_SPLITS
from shards.split_names import is_split

STUDY_COLUMN, IMPORTED_COLUMN = "study_instance_uid", "study"
PATIENT_COLUMN = "patient_id"
SPLIT_COLUMN = "split"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_UID = re.compile(r"[0-9][0-9.]{0,63}")  # PS3.5 section 9.1
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""Digits only: float also accepts 1_000 and the digits of all scripts."""
_VALUES = {"0": 0, "0.0": 0, "1": 1, "1.0": 1, "": None, "nan": None, "NaN": None, "NA": None}
"""Values in tables: pandas and R write 1.0 and NA if a column has gaps."""


def read(path: Path, kinds: Mapping[str, KindSpec] | None = None) -> LabelTable:
    """Read the table; FmctError with row and column for anything else, as free text can hold identifiers.

    kinds: of the columns that are not binary.
    """
    kinds = kinds or {}
    names: tuple[str, ...] = ()
    by_rule: dict[str, str] = {}
    rows: dict[str, tuple[Label, ...]] = {}
    splits: dict[str, str] = {}
    for line, cells in _cells(path):
        if not names:
            names = _label_columns(path, list(cells))
            by_rule = rules(kinds, names, path)
        study = cells[STUDY_COLUMN if STUDY_COLUMN in cells else IMPORTED_COLUMN].strip()
        if not study or (STUDY_COLUMN in cells and not _UID.fullmatch(study)):
            raise FmctError(
                f"{path} row {line}, column {STUDY_COLUMN}: not a UID of digits and dots; correct it"
            )
        if study in rows:
            raise FmctError(f"{path} row {line}: its study is in an earlier row; keep one row per study")
        rows[study] = tuple(
            label_value(path, line, name, cells[name])
            if by_rule[name] == "binary"
            else number(path, line, name, cells[name], by_rule[name])
            for name in names
        )
        _require_times(path, line, kinds, dict(zip(names, rows[study], strict=True)))
        if SPLIT_COLUMN in cells:
            splits[study] = cells[SPLIT_COLUMN].strip()
            if not is_split(splits[study]):
                raise FmctError(f"{path} row {line}, column {SPLIT_COLUMN}: not one of {EXPECTED_SPLITS}")
    if not rows:
        raise FmctError(f"{path}: no rows; give a header and one row per study")
    for place, name in enumerate(names):
        known = [float("nan") if (value := row[place]) is None else value for row in rows.values()]
        require_several(path, name, by_rule[name], np.array(known, np.float64))
    others = {name: rule for name, rule in by_rule.items() if rule != "binary"}
    return LabelTable(names, rows, splits or None, others)


def _cells(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column of each row; blank lines are skipped."""
    lines = table_lines(path, _WANTED)
    header = [name.strip() for name in next(lines, (0, []))[1]]
    for line, cells in lines:
        if not cells:
            continue
        if len(cells) != len(header):
            problem = f"{len(cells)} cells, the header has {len(header)}"
            raise FmctError(f"{path} row {line}: {problem}; correct it")
        if len(set(header)) < len(header):
            raise FmctError(f"{path}: a column name occurs twice in the header; rename one")
        yield line, dict(zip(header, cells, strict=True))


_WANTED = f"give a table with {STUDY_COLUMN} and 0/1 columns"


def _label_columns(path: Path, header: list[str]) -> tuple[str, ...]:
    if len(header) == 1 and re.search("[;\t]", header[0]):
        raise FmctError(f"{path}: its columns are separated by semicolons or tabs; save it with commas")
    if STUDY_COLUMN not in header and IMPORTED_COLUMN not in header:
        raise FmctError(
            f"{path}: no column {STUDY_COLUMN}; use this name for the column of Study Instance UIDs"
        )
    study = STUDY_COLUMN if STUDY_COLUMN in header else IMPORTED_COLUMN
    names = [name for name in header if name not in (study, PATIENT_COLUMN, SPLIT_COLUMN)]
    if not names:
        raise FmctError(f"{path}: no label column; add columns of 0, 1 or empty cells")
    for number, name in enumerate(header, 1):
        if not _NAME.fullmatch(name) or name == "study_key":
            raise FmctError(f"{path}: column {number} needs a name of letters, digits and _, not study_key")
    return tuple(names)


def label_value(path: Path, line: int, column: str, cell: str) -> Label:
    """The value of a cell; FmctError with its place for anything but 0, 1 or empty."""
    try:
        return _VALUES[cell.strip()]
    except KeyError:
        # The cell itself is not quoted: it may be a name.
        raise FmctError(
            f"{path} row {line}, column {column}: not 0, 1 or empty; correct it, drop the column, or give "
            f"its kind of label: --kinds '{{{column}: regression}}'"
        ) from None


def number(path: Path, line: int, column: str, cell: str, rule: str) -> float | None:
    """The value of a cell of another kind; FmctError with its place if it breaks the rule."""
    text = cell.strip()
    if text in _VALUES and _VALUES[text] is None:
        return None
    value = float(text) if _NUMBER.fullmatch(text) else float("inf")
    if not np.isfinite(value) or not valid(rule, np.array([value]))[0]:
        raise FmctError(f"{path} row {line}, column {column}: not {EXPECTED[rule]}; correct it")
    return value


def _require_times(path: Path, line: int, kinds: Mapping[str, KindSpec], row: Mapping[str, Label]) -> None:
    """Raise FmctError if an event has no time, or a time no event."""
    for name, spec in kinds.items():
        if isinstance(spec, Survival) and (row[name] is None) != (row[spec.survival] is None):
            raise FmctError(f"{path} row {line}: has only one of {name} and {spec.survival}; correct it")
