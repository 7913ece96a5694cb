"""The reference's released split tables for RSNA 2019 and CQ500, beside NIfTI files of the scans.

A folder has NAME_train_label.csv, NAME_val_label.csv and NAME_test_label.csv, the names in the reference's
configurations. Columns: img_path, without its root, then 0/1 labels (src/data/datasets.py of
NYUMedML/headCT_foundation). They have no patient or study column, so the file name identifies them: for RSNA
ID_<exam>.nii.gz, where the exam counts as a patient; for CQ500 the scan's name CQ500-CT-<number>, a patient.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from preprocess.csv_file import csv_lines
from shards.errors import FmctError

PATH = "img_path"
SPLITS = {"train": "train", "val": "validation", "test": "test"}
"""Split by the middle part of a table's name."""
_CQ500 = re.compile(r"CQ500[-_ ]?CT[-_ ]?(\d+)", re.IGNORECASE)
_WANTED = "give the folder with *_train_label.csv, *_val_label.csv and *_test_label.csv"


@dataclass(frozen=True)
class SplitRow:
    """One row of one of the tables."""

    table: Path
    line: int
    split: str
    path: str
    """Relative to the folder of the files."""
    labels: dict[str, str]
    """Cells by column."""

    @property
    def scan(self) -> str:
        """The name of the scan, which identifies its study and patient."""
        named = _CQ500.search(self.path)
        return (
            f"CQ500-CT-{int(named[1])}"
            if named
            else re.sub(r"\.nii(\.gz)?$", "", Path(self.path).name, flags=re.I)
        )


def read_split_tables(folder: Path) -> list[SplitRow]:
    """The rows of the folder's tables; FmctError if tables are missing or not of this form."""
    rows: list[SplitRow] = []
    for part, split in SPLITS.items():
        tables = sorted(folder.glob(f"*_{part}_label.csv"))
        if len(tables) != 1:
            raise FmctError(f"{folder}: {len(tables)} tables *_{part}_label.csv, expected one; {_WANTED}")
        lines = csv_lines(tables[0], _WANTED)
        header = [name.strip() for name in next(lines, (0, []))[1]]
        if PATH not in header or len(header) < 2 or len(set(header)) < len(header):
            raise FmctError(f"{tables[0]}: expected the column {PATH} and labels, each once; {_WANTED}")
        for line, cells in lines:
            if not cells:
                continue
            if len(cells) != len(header):
                raise FmctError(
                    f"{tables[0]} row {line}: {len(cells)} cells, the header has {len(header)}; correct it"
                )
            labels = dict(zip(header, (cell.strip() for cell in cells), strict=True))
            rows.append(SplitRow(tables[0], line, split, labels.pop(PATH).lstrip("/"), labels))
    if not rows:
        raise FmctError(f"{folder}: tables without rows; {_WANTED}")
    return rows
