"""The reference's split tables of RSNA 2019 and CQ500 (preprocess.split_tables): labels and splits."""

import re
from pathlib import Path

from preprocess.labels.plain import label_value
from preprocess.labels.table import Label, LabelTable
from preprocess.split_tables import read_split_tables
from shards.errors import FmctError


def read(folder: Path) -> LabelTable:
    """Labels of the scans; rows of one scan, such as its series, must agree.

    Raises FmctError for other tables, for values other than 0, 1 or empty, and for contradictions.
    """
    rows: dict[str, tuple[Label, ...]] = {}
    splits: dict[str, str] = {}
    names: tuple[str, ...] = ()
    for row in read_split_tables(folder):
        names = names or tuple(row.labels)
        if tuple(row.labels) != names:
            raise FmctError(f"{row.table}: columns differ from the tables before; give tables of one dataset")
        labels = tuple(label_value(row.table, row.line, name, cell) for name, cell in row.labels.items())
        earlier = rows.setdefault(row.scan, labels), splits.setdefault(row.scan, row.split)
        if earlier != (labels, row.split):
            raise FmctError(
                f"{row.table} row {row.line}: its scan has other labels or another split in an earlier "
                "row; keep one"
            )
    return LabelTable(tuple(re.sub(r"\W", "_", name) for name in names), rows, splits)
