"""Resampling a mask to the grid of its volume."""

import numpy as np
from numpy.typing import NDArray

from preprocess.masks.planes import Planes
from preprocess.reasons import Reason, Rejection
from preprocess.volume.resample import Grid, resample
from shards.masks import packed
from shards.schema import VolumeRecord

RESAMPLING = "each class linearly as the volume's HU, at 0.5"
ONE = 2**14
"""Value of a full voxel in the resampler's int16."""
SAME_PLACE_MM = 1e-3
"""Tolerance of two values for the same voxel edge or corner."""
MIN_INSIDE = 0.5
"""Share of a mask that must be inside its volume: less indicates another scan or frame of reference."""


def grid_of(record: VolumeRecord) -> Grid:
    """The grid of a stored volume, including its crop.

    Raises Rejection(affine_mismatch) if it is not along the patient's axes, as specified in docs/formats.md.
    """
    affine = np.reshape(record.affine, (4, 4))
    grid = Grid(affine[:3, 3], record.spacing_mm, record.shape)
    if not np.allclose(grid.affine, affine, atol=SAME_PLACE_MM):
        raise Rejection(
            Reason.AFFINE_MISMATCH, "the volume's affine does not match its spacing along S, A, R"
        )
    return grid


def to_grid(planes: Planes, record: VolumeRecord, classes: int) -> NDArray[np.int16]:
    """The mask on its volume's grid: int16 (D, H, W), one bit per class.

    Each class is resampled separately by the resampler of the volume (`preprocess.volume.resample`: linear
    between the slices' true positions, averaged first if the grid is coarser); a voxel gets the class if its
    share is at least half. So the borders match the interpolated HU borders. Nearest-neighbour sampling would
    add steps of half a slice thickness (2.5 mm and more in head CT) to every border; interpolating class
    numbers would create false classes between two others.

    Raises Rejection: empty_mask for a mask without voxels, outside_volume for one that is mostly outside.
    """
    if not planes.bits.any():
        raise Rejection(
            Reason.EMPTY_MASK, "no voxel is set; if the reader found nothing, leave the path cell empty"
        )
    grid = grid_of(record)
    inside = share_inside(planes, grid)
    if inside < MIN_INSIDE:
        raise Rejection(
            Reason.OUTSIDE_VOLUME,
            f"{inside:.0%} of it is within the volume; is it of this scan, and in its frame of reference?",
        )
    shares = np.stack([_resampled(planes, grid, number) for number in range(classes)])
    if not shares.any():
        raise Rejection(Reason.EMPTY_MASK, "it does not fill half of any voxel of the volume's grid")
    return packed(shares)


def _resampled(planes: Planes, grid: Grid, number: int) -> NDArray[np.bool_]:
    own = (planes.bits >> number) & 1
    if not own.any():
        return np.zeros(grid.shape, np.bool_)
    return np.asarray(resample(own * np.int16(ONE), planes.slices, grid, 0) >= ONE // 2)


def share_inside(planes: Planes, grid: Grid) -> float:
    """The share of the mask's voxels whose centres are inside the grid."""
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
