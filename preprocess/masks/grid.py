"""Bringing a mask to the grid of its volume."""

import numpy as np
from numpy.typing import NDArray

from preprocess.masks.planes import Planes
from preprocess.reasons import Reason, Rejection
from preprocess.volume.resample import Grid, resample
from shards.masks import packed
from shards.schema import VolumeRecord

RESAMPLING = "each class linearly as the volume's HU, at 0.5"
ONE = 2**14
"""What stands for a whole voxel in the resampler's int16."""
SAME_PLACE_MM = 1e-3
"""Between two statements of a voxel's edge or of a corner that are one."""
LEAST_INSIDE = 0.5
"""Share of a mask that must lie within its volume: less is a mask of something else, or in another frame."""


def grid_of(record: VolumeRecord) -> Grid:
    """The grid of a stored volume, its crop included.

    Raises Rejection(affine_mismatch) where it is not along the patient's axes, as docs/formats.md has it.
    """
    affine = np.reshape(record.affine, (4, 4))
    grid = Grid(affine[:3, 3], record.spacing_mm, record.shape)
    if not np.allclose(grid.affine, affine, atol=SAME_PLACE_MM):
        raise Rejection(
            Reason.AFFINE_MISMATCH, "the volume's affine is not that of its spacing along S, A, R"
        )
    return grid


def to_grid(planes: Planes, record: VolumeRecord, classes: int) -> NDArray[np.int16]:
    """The mask on its volume's grid: int16 (D, H, W), a bit a class.

    Each class by itself goes through the very resampler that made the volume (`preprocess.volume.resample`:
    linear between the slices' true positions, averaged first where the grid is coarser), and a voxel has the
    class where the share is half or more. So borders lie where the HU's own borders were interpolated to.
    Taking the nearest slice's pixel would put steps of half a slice's thickness (2.5 mm and more in head CT)
    into every border; interpolating numbers of classes would invent classes between two others.

    Raises Rejection: empty_mask for a mask of nothing, outside_volume for one that mostly lies elsewhere.
    """
    if not planes.bits.any():
        raise Rejection(
            Reason.EMPTY_MASK, "no voxel is set; if a reader found nothing, leave the cell of path empty"
        )
    grid = grid_of(record)
    inside = share_inside(planes, grid)
    if inside < LEAST_INSIDE:
        raise Rejection(
            Reason.OUTSIDE_VOLUME,
            f"{inside:.0%} of it is within the volume; is it of this scan, and in its frame of reference?",
        )
    found = np.stack([_resampled(planes, grid, number) for number in range(classes)])
    if not found.any():
        raise Rejection(Reason.EMPTY_MASK, "it fills no half of a voxel of the volume's grid")
    return packed(found)


def _resampled(planes: Planes, grid: Grid, number: int) -> NDArray[np.bool_]:
    own = (planes.bits >> number) & 1
    if not own.any():
        return np.zeros(grid.shape, np.bool_)
    return np.asarray(resample(own * np.int16(ONE), planes.slices, grid, 0) >= ONE // 2)


def share_inside(planes: Planes, grid: Grid) -> float:
    """Of the mask's own voxels, the share whose centres lie within the grid."""
    slices = planes.slices
    number, row, column = np.nonzero(planes.bits)
    points = (
        slices.positions[number]
        + row[:, None] * slices.spacing[0] * slices.row_step
        + column[:, None] * slices.spacing[1] * slices.column_step
    )
    back = np.linalg.inv(grid.affine)
    index = points @ back[:3, :3].T + back[:3, 3]
    within = (index >= -0.5) & (index <= np.array(grid.shape) - 0.5)
    return float(within.all(axis=1).mean())
