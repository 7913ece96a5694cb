"""From our grid to a peer's: resampling, padding and cropping as MONAI's transforms do them.

The tests hold each function to MONAI's own transform. They are written out, since a volume here has no file
and its axes are known: (D, H, W) towards superior, anterior and right.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

AIR_HU = -1024.0


def resampled(volume: Tensor, spacing_mm: Sequence[float], wanted_mm: Sequence[float]) -> Tensor:
    """Linear, without smoothing: float32 (d, h, w) of a volume (D, H, W), first voxels' centres in one place.

    As `monai.transforms.Spacing` with mode "bilinear" and its other defaults: the last voxel's centre lies
    within half a voxel of the old one's, and what lies beyond that repeats it.
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
    """Padded with `value` on both sides, then cropped around the middle: (D, H, W) -> `size`.

    As `SpatialPad` and `CenterSpatialCrop`: an odd voxel of padding comes last.
    """
    pads: list[int] = []
    for own, wanted in zip(reversed(volume.shape), reversed(size), strict=True):
        lacking = max(wanted - own, 0)
        pads += [lacking // 2, lacking - lacking // 2]
    padded = torch.nn.functional.pad(volume, pads, value=value)
    starts = [own // 2 - wanted // 2 for own, wanted in zip(padded.shape, size, strict=True)]
    return padded[tuple(slice(start, start + wanted) for start, wanted in zip(starts, size, strict=True))]


def scaled(volume: Tensor, low: float, high: float) -> Tensor:
    """To [0, 1] from [low, high] HU, clipped, as `ScaleIntensityRange`."""
    return ((volume - low) / (high - low)).clamp(0, 1)


def as_tensor(volume: NDArray[np.int16]) -> Tensor:
    """Float32, (D, H, W)."""
    return torch.from_numpy(volume.astype(np.float32))
