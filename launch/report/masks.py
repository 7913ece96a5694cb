"""Masks of findings in files, by a table that says which volume and label each is of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.relevance.measure import Truth
from fmct_hpc.relevance.place import PatchGrid
from preprocess.csv_file import table_lines
from preprocess.demo.volume_masks import VolumeMask
from preprocess.reasons import Rejection
from preprocess.volume.formats import open_volume
from shards.atomic import write_bytes, write_text
from shards.errors import FmctError
from shards.lock import writing
from shards.names import inside
from shards.nifti import nifti_bytes
from shards.places import require_folder

TABLE = "masks.csv"
COLUMNS = ("key", "task", "mask")
WANTED = "expected a table of masks with the columns key, task and mask"


@dataclass(frozen=True)
class Masks:
    """Files of masks, each on a grid of its own in the patient's frame."""

    table: Path
    files: Mapping[tuple[str, str], tuple[int, Path]]
    """By volume key and label: the table's row, and the file."""

    @classmethod
    def read(cls, table: Path) -> "Masks":
        """A CSV or Parquet with the columns key, task and mask, a row a volume and label.

        key: as `fmct relevance` and `fmct features` give it; task: a label's column; mask: a NIfTI, NRRD or
        MetaImage file, whose relative path is from the table's folder.

        Raises FmctError, naming the row, where a column or file lacks or a row is there twice.
        """
        files: dict[tuple[str, str], tuple[int, Path]] = {}
        lines = table_lines(table, WANTED)
        _, header = next(lines, (0, []))
        if missing := [name for name in COLUMNS if name not in header]:
            raise FmctError(f"{table}: has no column {missing[0]}; {WANTED}")
        for row, cells in lines:
            if len(cells) != len(header):
                raise FmctError(f"{table} row {row}: {len(cells)} cells under {len(header)} columns")
            key, task, mask = (cells[header.index(name)].strip() for name in COLUMNS)
            if (key, task) in files:
                raise FmctError(f"{table} row {row}: key {key} and task {task} are in an earlier row too")
            files[key, task] = row, table.parent / mask
            if not files[key, task][1].is_file():
                raise FmctError(f"{table} row {row}, column mask: no such file")
        if not files:
            raise FmctError(f"{table}: no rows; {WANTED}")
        return cls(table, files)

    def truth(self, key: str, task: str, grid: PatchGrid) -> Truth | None:
        """The mask of a volume beside its patches; None where the table has none.

        Raises FmctError, naming the row, for a file that cannot be read, says no place, or marks nothing.
        """
        if (key, task) not in self.files:
            return None
        row, file = self.files[key, task]
        try:
            points, voxel_mm3 = _marked(file)
        except Rejection as rejection:
            raise FmctError(f"{self.table} row {row}, column mask: {rejection}") from None
        if not len(points):
            raise FmctError(f"{self.table} row {row}, column mask: marks nothing; leave the row out")
        return Truth.of(points, voxel_mm3, grid)


def write_masks(masks: Iterable[VolumeMask], out: Path) -> int:
    """Write masks as NIfTI with their table, `out`/masks.csv, last; returns how many.

    Raises FmctError where `out` takes no files.
    """
    require_folder(out)
    lines = [",".join(COLUMNS)]
    with writing(out, "fmct demo masks"):
        for one in masks:
            name = f"{one.key}-{one.task}.nii.gz"
            write_bytes(inside(out, name), nifti_bytes(one.mask.astype(np.uint8), one.affine))
            lines.append(f"{one.key},{one.task},{name}")
        write_text(out / TABLE, "\n".join(lines) + "\n")
    return len(lines) - 1


def _marked(file: Path) -> tuple[NDArray[np.float64], float]:
    """Centres of the voxels above one half, LPS mm (M, 3), and the volume of one, mm³."""
    volume = open_volume(file)
    if volume.affine is None:
        raise FmctError(f"{file}: a format that does not say how it lies in the patient; give NIfTI")
    marked = np.stack([volume.read(number) > 0.5 for number in range(volume.shape[0])])
    points = np.argwhere(marked) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return points, float(abs(np.linalg.det(volume.affine[:3, :3])))
