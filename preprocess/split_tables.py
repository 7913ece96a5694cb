"""The split tables that the reference released for RSNA 2019 and CQ500, beside NIfTI files of their scans.

A folder has NAME_train_label.csv, NAME_val_label.csv and NAME_test_label.csv, as the reference's
configurations name them: img_path, its root removed, and then 0/1 columns (src/data/datasets.py of
NYUMedML/headCT_foundation). They name no patient and no study, so the file's name does: ID_<exam>.nii.gz of
RSNA, whose exam counts as a patient, and the scan's name of CQ500, CQ500-CT-<number>, which is a patient's.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from preprocess.csv_file import csv_lines
from shards.errors import FmctError

PATH = "img_path"
SPLITS = {"train": "train", "val": "validation", "test": "test"}
"""By what stands in the tables' names."""
_CQ500 = re.compile(r"CQ500[-_ ]?CT[-_ ]?(\d+)", re.IGNORECASE)
_WANTED = "give the folder with *_train_label.csv, *_val_label.csv and *_test_label.csv"


@dataclass(frozen=True)
class SplitRow:
    """One row of one of the tables."""

    table: Path
    line: int
    split: str
    path: str
    """Relative to wherever the files lie."""
    labels: dict[str, str]
    """Cells by column."""

    @property
    def scan(self) -> str:
        """The name of the scan, which stands for its study and its patient."""
        named = _CQ500.search(self.path)
        return (
            f"CQ500-CT-{int(named[1])}"
            if named
            else re.sub(r"\.nii(\.gz)?$", "", Path(self.path).name, flags=re.I)
        )


def read_split_tables(folder: Path) -> list[SplitRow]:
    """The rows of the folder's tables; FmctError where there are none of this form, or not all three."""
    rows: list[SplitRow] = []
    for part, split in SPLITS.items():
        found = sorted(folder.glob(f"*_{part}_label.csv"))
        if len(found) != 1:
            raise FmctError(f"{folder}: {len(found)} tables *_{part}_label.csv; {_WANTED}")
        lines = csv_lines(found[0], _WANTED)
        header = [name.strip() for name in next(lines, (0, []))[1]]
        if PATH not in header or len(header) < 2 or len(set(header)) < len(header):
            raise FmctError(f"{found[0]}: expected the column {PATH} and labels, each once; {_WANTED}")
        for line, cells in lines:
            if not cells:
                continue
            if len(cells) != len(header):
                raise FmctError(
                    f"{found[0]} row {line}: {len(cells)} cells, the header has {len(header)}; correct it"
                )
            labels = dict(zip(header, (cell.strip() for cell in cells), strict=True))
            rows.append(SplitRow(found[0], line, split, labels.pop(PATH).lstrip("/"), labels))
    if not rows:
        raise FmctError(f"{folder}: tables without rows; {_WANTED}")
    return rows
