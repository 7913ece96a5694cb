"""The reference's split tables of RSNA 2019 and CQ500 (preprocess.split_tables) as rows of `fmct import`."""

from pathlib import Path

from preprocess.imports.table import KNOWN, Row
from preprocess.split_tables import read_split_tables


def reference_rows(folder: Path) -> list[Row]:
    """One row per file, numbered across the tables; raises FmctError as `read_split_tables` does."""
    empty = dict.fromkeys(KNOWN, "")
    return [
        Row(number, {**empty, "path": row.path, "patient": row.scan, "study": row.scan})
        for number, row in enumerate(read_split_tables(folder), 1)
    ]
