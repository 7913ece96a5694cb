"""Random parameters of each view: a pure function of (seed, epoch, sample, view).

The augmentations are those of NYUMedML/headCT_foundation, `DataAugmentationDINO3D` (MONAI transforms):
crops of random size, independent per axis, at a random position; flips and an intensity shift for the two
global views; smoothing for the first of them and gamma for the second. Local crops are from the field's
central cube, without further augmentation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fmct_hpc.data.config import DataConfig
from fmct_hpc.data.field import Voxels3, voxels

SMOOTHED, GAMMAED = 0, 1
"""The global view that may be smoothed, and the one, if there are two, that may get a gamma."""

_STREAM = int.from_bytes(b"views")


@dataclass(frozen=True)
class ViewParameters:
    """One view of one sample, axes (D, H, W)."""

    start: Voxels3
    """First voxel of the crop in the field."""
    edge: Voxels3
    """Voxels of the crop."""
    flip: tuple[bool, bool, bool] = (False, False, False)
    shift: float = 0.0
    """Added to all channels, in units of the windowed range."""
    sigma: tuple[float, float, float] | None = None
    """Gaussian smoothing, in voxels of the view; None: not smoothed."""
    gamma: float | None = None
    """Exponent of the contrast change; None: unchanged."""


def draw_views(
    data: DataConfig, spacing_mm: Sequence[float], seed: int, epoch: int, sample: int
) -> list[ViewParameters]:
    """Parameters of all views of a sample, the global ones first.

    Args:
        data: ranges and probabilities; lengths in mm.
        spacing_mm: (D, H, W) of the stored volume.
        seed: the run's seed.
        epoch: of this visit to the sample.
        sample: the dataset's index.
    """
    drawn = []
    for view in range(data.views):
        philox = np.random.Philox(key=[seed, _STREAM], counter=[0, view, sample, epoch])
        # All uniforms are always drawn, so that a changed probability does not change other parameters.
        uniform = np.random.Generator(philox).random(17)
        start, edge = _crop(data, spacing_mm, uniform[:6], is_global=view < data.global_views)
        if view >= data.global_views:
            drawn.append(ViewParameters(start, edge))
            continue
        flip_d, flip_h, flip_w = (bool(u < data.flip_probability) for u in uniform[6:9])
        shifts = uniform[9] < data.shift_probability
        smooths = view == SMOOTHED and uniform[11] < data.smooth_probability
        gammas = view == GAMMAED and uniform[15] < data.gamma_probability
        sigma_d, sigma_h, sigma_w = (_between(data.smooth_sigma, u) for u in uniform[12:15])
        drawn.append(
            ViewParameters(
                start,
                edge,
                flip=(flip_d, flip_h, flip_w),
                shift=_between((-data.shift, data.shift), uniform[10]) if shifts else 0.0,
                sigma=(sigma_d, sigma_h, sigma_w) if smooths else None,
                gamma=_between(data.gamma, uniform[16]) if gammas else None,
            )
        )
    return drawn


def _crop(
    data: DataConfig, spacing_mm: Sequence[float], uniform: np.ndarray, is_global: bool
) -> tuple[Voxels3, Voxels3]:
    """Start and edge of a crop, as MONAI's RandSpatialCrop(random_size=True, random_center=True).

    Per axis, the edge is uniform over the range, both ends included, then the start over all positions that
    fit.
    """
    range_mm = data.global_crop_mm if is_global else data.local_crop_mm
    low, high = voxels(range_mm[0], spacing_mm), voxels(range_mm[1], spacing_mm)
    field = voxels(data.field_mm, spacing_mm)
    region = field if is_global else voxels(data.local_field_mm, spacing_mm)
    starts, edges = [], []
    for axis in range(3):
        max_edge = min(high[axis], region[axis])
        edge = low[axis] + int(uniform[axis] * (max_edge - low[axis] + 1))
        offset = int(uniform[3 + axis] * (region[axis] - edge + 1))
        starts.append((field[axis] // 2 - region[axis] // 2) + offset)
        edges.append(edge)
    return (starts[0], starts[1], starts[2]), (edges[0], edges[1], edges[2])


def _between(limits: tuple[float, float], uniform: float) -> float:
    return float(limits[0] + uniform * (limits[1] - limits[0]))
