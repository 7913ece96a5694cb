"""Gaussian smoothing equivalent to MONAI's RandGaussianSmooth: its kernels.

Reader processes draw them, so this module imports no DALI.
"""

from collections.abc import Sequence
from math import erf, sqrt

import numpy as np

_TRUNCATE = 4.0
"""Half-width of the kernel in sigmas (MONAI's default)."""


def radius(sigma: float) -> int:
    """Voxels on either side of the kernel's centre."""
    return int(max(sigma * _TRUNCATE, 0.5) + 0.5)


def taps(sigma: Sequence[float], width: int) -> np.ndarray:
    """One kernel per axis, float32 (axes, 2·width + 1), padded with zeros to the same length.

    A tap is the Gaussian's integral over its voxel, (erf(t(x + ½)) - erf(t(x - ½))) / 2 with
    t = 1 / (σ√2), and taps are not normalised (MONAI `gaussian_1d`, approx="erf").
    """
    kernels = np.zeros((len(sigma), 2 * width + 1), np.float32)
    for kernel, s in zip(kernels, sigma, strict=True):
        t = 1 / (s * sqrt(2))
        for x in range(-radius(s), radius(s) + 1):
            kernel[width + x] = (erf(t * (x + 0.5)) - erf(t * (x - 0.5))) / 2
    return kernels
