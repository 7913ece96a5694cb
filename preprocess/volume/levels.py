"""Whether all slices of a stack have one scale, by comparing neighbours, independent of headers."""

import numpy as np

from preprocess.dicom.geometry import STRAY_SLICES
from preprocess.reasons import Reason, Rejection

LEVEL_HU = 700.0
"""Most pixels change less between slices: air stays air, and brain stays brain. A missing Rescale Intercept
(1000 or 1024) changes all of them."""
_EVERY = 8
"""Every n-th pixel along rows and columns is compared: 4096 of a slice of 512²."""


def off_scale(hu: np.ndarray) -> np.ndarray:
    """float64 (N,): HU offset of slices, int16 (N, rows, columns), from the majority; 0 for the majority.

    Raises Rejection(not_hounsfield) if more than `STRAY_SLICES` have an offset.
    """
    sampled = hu[:, ::_EVERY, ::_EVERY].astype(np.int32).reshape(len(hu), -1)
    jumps = np.median(np.diff(sampled, axis=0), axis=1)
    levels = np.concatenate([[0.0], np.cumsum(np.where(np.abs(jumps) > LEVEL_HU, jumps, 0.0))])
    offsets = levels - np.sort(levels)[len(levels) // 2]
    offsets[np.abs(offsets) <= LEVEL_HU] = 0.0
    off = np.count_nonzero(offsets)
    if off > STRAY_SLICES * len(hu):
        detail = f"{off} of {len(hu)} slices are {np.abs(offsets).max():.0f} HU off the others"
        raise Rejection(Reason.NOT_HOUNSFIELD, detail)
    return offsets
