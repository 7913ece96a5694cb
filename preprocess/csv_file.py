"""Tables given by users: CSV in UTF-8, with or without a byte order mark, or Parquet."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from shards.errors import FmctError, raise_refusal
from shards.table_file import read_table

_EXACT = 2**53
"""Below it, every integer is a double (IEEE 754: 53 bits of significand)."""


def table_lines(path: Path, wanted: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each line of a CSV file, or of a .parquet file in the same form.

    The header is included; a Parquet file's first row is row 1. wanted: the expected file, for messages.
    Raises FmctError if it is not readable.
    """
    return _parquet_lines(path, wanted) if path.suffix == ".parquet" else csv_lines(path, wanted)


def _parquet_lines(path: Path, wanted: str) -> Iterator[tuple[int, list[str]]]:
    try:
        table = read_table(path)
    except FileNotFoundError:
        raise FmctError(f"{path}: no such file; {wanted}") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise_refusal(error, path)
        raise FmctError(f"{path}: not a readable Parquet file; {wanted}") from None
    yield 0, table.column_names
    columns = [column.to_pylist() for column in table.columns]
    for row, values in enumerate(zip(*columns, strict=True), 1):
        yield row, [_text(value) for value in values]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))  # pandas stores integers with missing ones so
    return "" if value is None or value != value else str(value)  # NaN: a missing number


def csv_lines(path: Path, wanted: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each line, header included; wanted: the expected file, for messages.

    Raises FmctError if the file is missing or not readable.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            for cells in reader:
                yield reader.line_num, cells
    except FileNotFoundError:
        raise FmctError(f"{path}: no such file; {wanted}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise_refusal(error, path)
        raise FmctError(
            f"{path}: not readable as UTF-8 CSV ({type(error).__name__}); save it in that format"
        ) from None


_FORMULA = r"(^|[;\t])(\s*[=+\-@\t\r\n＝＋－＠])"
"""The start of a formula in spreadsheets (OWASP, CSV Injection): at the start of a cell or, in spreadsheets
that split lines at semicolons or tabs (as in much of Europe), within one."""


def write_csv(table: pa.Table, path: Path) -> None:
    """Write a table as CSV, with an apostrophe wherever a spreadsheet could start a formula."""
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            marked = pc.replace_substring_regex(table.column(place), _FORMULA, r"\1'\2")
            table = table.set_column(place, field, marked)
    pyarrow.csv.write_csv(table, path)
