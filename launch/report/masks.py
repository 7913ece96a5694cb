"""Mask files of findings, listed in a table with the volume and label of each."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.relevance.measure import Truth
from fmct_hpc.relevance.patch_grid import PatchGrid
from preprocess.csv_file import table_lines
from preprocess.demo.volume_masks import VolumeMask
from preprocess.reasons import Rejection
from preprocess.volume.formats import open_volume
from shards.atomic import write_bytes, write_text
from shards.errors import FmctError
from shards.info import sha256
from shards.lock import writing
from shards.names import inside
from shards.nifti import nifti_bytes
from shards.output_paths import require_folder

TABLE = "masks.csv"
COLUMNS = ("key", "task", "mask")
WANTED = "expected a table of masks with the columns key, task and mask"


@dataclass(frozen=True)
class Masks:
    """Mask files, each on its own grid in the patient's frame."""

    table: Path
    files: Mapping[tuple[str, str], tuple[int, Path]]
    """The table's row and the file, by volume key and label."""

    @classmethod
    def read(cls, table: Path) -> "Masks":
        """Read a CSV or Parquet table with the columns key, task and mask, one row per volume and label.

        key: as in the output of `fmct relevance` and `fmct features`; task: a label's column; mask: a NIfTI,
        NRRD or MetaImage file, with a path relative to the table's folder.

        Raises FmctError that names the row if a column or file is missing or a row is a duplicate.
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
                raise FmctError(f"{table} row {row}: key {key} and task {task} are already in an earlier row")
            files[key, task] = row, table.parent / mask
            if not files[key, task][1].is_file():
                raise FmctError(f"{table} row {row}, column mask: no such file")
        if not files:
            raise FmctError(f"{table}: no rows; {WANTED}")
        return cls(table, files)

    @property
    def digest(self) -> str:
        """Changes with the table, and with size or modification time of a file."""
        of_files = [(row, file.stat().st_size, file.stat().st_mtime_ns) for row, file in self.files.values()]
        return hashlib.sha256(f"{sha256(self.table)} {of_files}".encode()).hexdigest()

    def truth(self, key: str, task: str, grid: PatchGrid) -> Truth | None:
        """The mask of a volume on its patch grid; None if the table has none.

        Raises FmctError that names the row, and no path, if the file is unreadable, has no position, or is
        empty.
        """
        if (key, task) not in self.files:
            return None
        row, file = self.files[key, task]
        try:
            points, voxel_mm3 = _mask_points(file)
        except (Rejection, FmctError) as error:
            raise FmctError(f"--masks row {row}, column mask: {error}") from None
        if not len(points):
            raise FmctError(f"--masks row {row}, column mask: the mask is empty; remove the row")
        return Truth.of(points, voxel_mm3, grid)


def write_masks(masks: Iterable[VolumeMask], out: Path) -> int:
    """Write masks as NIfTI files and then their table, `out`/masks.csv; returns their number.

    Raises FmctError if `out` is not writable.
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


def _mask_points(file: Path) -> tuple[NDArray[np.float64], float]:
    """Centres of the voxels above one half, LPS mm (M, 3), and the volume of a voxel, mm³."""
    volume = open_volume(file)
    if volume.affine is None:
        raise FmctError("this format has no position in the patient; use NIfTI")
    marked = np.stack([volume.read(number) > 0.5 for number in range(volume.shape[0])])
    points = np.argwhere(marked) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return points, float(abs(np.linalg.det(volume.affine[:3, :3])))
