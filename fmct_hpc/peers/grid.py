"""Resampling, padding and cropping from this package's grid to a peer's, equivalent to MONAI's transforms.

The functions are tested against MONAI's transforms. They are implemented here, since volumes are arrays
without a file, with known axes: (D, H, W) towards superior, anterior and right.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

AIR_HU = -1024.0


def resampled(volume: Tensor, spacing_mm: Sequence[float], wanted_mm: Sequence[float]) -> Tensor:
    """Linear resampling without smoothing, (D, H, W) -> float32 (d, h, w), with aligned first voxel centres.

    As `monai.transforms.Spacing` with mode "bilinear" and other defaults: the last voxel's centre is within
    half a voxel of the original one, and positions beyond it repeat its value.
    """
    for axis, (own, new) in enumerate(zip(spacing_mm, wanted_mm, strict=True)):
        if own != new:
            volume = _along(volume, axis, new / own)
    return volume


def _along(volume: Tensor, axis: int, step: float) -> Tensor:
    last = volume.shape[axis] - 1
    count = int(np.round(last / step + 1))
    places = (torch.arange(count, dtype=torch.float64) * step).clamp(max=last)
    below = places.floor().long().clamp(max=max(last - 1, 0))
    above = (below + 1).clamp(max=last)
    shape = [1, 1, 1]
    shape[axis] = count
    share = (places - below).float().reshape(shape)
    return torch.lerp(volume.index_select(axis, below), volume.index_select(axis, above), share)


def fitted(volume: Tensor, size: Sequence[int], value: float) -> Tensor:
    """Pad with `value` on both sides, then crop around the centre: (D, H, W) -> `size`.

    As `SpatialPad` and `CenterSpatialCrop`: an odd voxel of padding is added at the end.
    """
    pads: list[int] = []
    for own, wanted in zip(reversed(volume.shape), reversed(size), strict=True):
        lacking = max(wanted - own, 0)
        pads += [lacking // 2, lacking - lacking // 2]
    padded = torch.nn.functional.pad(volume, pads, value=value)
    starts = [own // 2 - wanted // 2 for own, wanted in zip(padded.shape, size, strict=True)]
    return padded[tuple(slice(start, start + wanted) for start, wanted in zip(starts, size, strict=True))]


def scaled(volume: Tensor, low: float, high: float) -> Tensor:
    """Scale [low, high] HU to [0, 1], clipped, as `ScaleIntensityRange`."""
    return ((volume - low) / (high - low)).clamp(0, 1)


def as_tensor(volume: NDArray[np.int16]) -> Tensor:
    """The volume as a float32 tensor, (D, H, W)."""
    return torch.from_numpy(volume.astype(np.float32))
