"""Resampling of a volume to the spacing of an encoder's training volumes."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from shards.errors import FmctError

SPACING_TOLERANCE = 0.01
"""Relative difference up to which a spacing counts as that of the training volumes."""


def at_training_spacing(
    volume: NDArray[np.generic], spacing_mm: Sequence[float], trained_mm: Sequence[float]
) -> tuple[NDArray[np.int16], Sequence[float], list[float]]:
    """The volume in int16 HU at the training spacing, that spacing, and the scale (new per old voxels).

    volume: HU (D, H, W); spacing_mm, trained_mm: (D, H, W). Raises FmctError for an invalid shape, spacing or
    value.
    """
    if volume.ndim != 3 or not volume.size or len(spacing_mm) != 3 or min(spacing_mm) <= 0:
        raise FmctError(
            f"a volume of shape {volume.shape} with spacing {tuple(spacing_mm)}: expected HU (D, H, W) "
            "and three spacings above 0 mm"
        )
    if not np.isfinite(volume).all():
        raise FmctError("the volume has values that are not finite; HU are expected")
    scale = [own / trained for own, trained in zip(spacing_mm, trained_mm, strict=True)]
    if max(abs(factor - 1) for factor in scale) > SPACING_TOLERANCE:
        volume, spacing_mm = resample(volume, scale), trained_mm
    else:
        scale = [1.0, 1.0, 1.0]
    return np.clip(np.rint(volume), -32768, 32767).astype(np.int16), spacing_mm, scale


def resample(volume: NDArray[np.generic], scale: list[float]) -> NDArray[np.float32]:
    """Linear interpolation between voxel centres; scale: new per old voxels, by axis."""
    field = torch.from_numpy(volume.astype(np.float32))[None, None]
    return F.interpolate(field, scale_factor=scale, mode="trilinear", align_corners=False)[0, 0].numpy()
