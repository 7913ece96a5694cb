"""Whether all slices of a stack have one scale, by comparing neighbours, independent of headers."""

import numpy as np

from preprocess.dicom.geometry import STRAY_SLICES
from preprocess.reasons import Reason, Rejection

LEVEL_HU = 700.0
"""Most pixels change less between slices: air stays air, and brain stays brain. A missing Rescale Intercept
(1000 or 1024) changes all of them."""
TISSUE_HU = -500
"""Halfway between air and soft tissue."""
SEEN_SHARE = 0.2
"""Least share of the pixels with tissue in slices below and above that have tissue in a slice between them:
on a scale 1024 HU too low, bone stays above `TISSUE_HU`; a neck has a third of the head's area."""
MIN_PIXELS = 8
"""Fewest such pixels that are compared."""
_EVERY = 8
"""Every n-th pixel along rows and columns is compared: 4096 of a slice of 512²."""


def off_scale(hu: np.ndarray) -> np.ndarray:
    """float64 (N,): HU offset of slices, int16 (N, rows, columns), from the majority; 0 for the majority.

    A slice on a higher scale has other air than its neighbours. On a lower one, or if its pixels were lost,
    it has air where others have tissue: decoding makes air of what is below the scale.

    Raises Rejection(not_hounsfield) if more than `STRAY_SLICES` have an offset.
    """
    sampled = hu[:, ::_EVERY, ::_EVERY].astype(np.int32).reshape(len(hu), -1)
    jumps = np.median(np.diff(sampled, axis=0), axis=1)
    levels = np.concatenate([[0.0], np.cumsum(np.where(np.abs(jumps) > LEVEL_HU, jumps, 0.0))])
    offsets = levels - np.sort(levels)[len(levels) // 2]
    offsets[np.abs(offsets) <= LEVEL_HU] = 0.0
    offsets = np.where(offsets == 0, _lost_tissue(sampled), offsets)
    off = np.count_nonzero(offsets)
    if off > STRAY_SLICES * len(hu):
        detail = f"{off} of {len(hu)} slices are {np.abs(offsets).max():.0f} HU off the others"
        raise Rejection(Reason.NOT_HOUNSFIELD, detail)
    return offsets


def _lost_tissue(sampled: np.ndarray) -> np.ndarray:
    """float64 (N,): HU offset of slices, (N, pixels), that have air between tissue of others; else 0."""
    tissue = sampled > TISSUE_HU
    below, above = (np.logical_or.accumulate(tissue[::way])[::way] for way in (1, -1))
    between = np.zeros_like(tissue)
    between[1:-1] = below[:-2] & above[2:]
    pixels = between.sum(axis=1)
    lost = (pixels >= MIN_PIXELS) & ((between & tissue).sum(axis=1) < SEEN_SHARE * pixels)
    offsets = np.zeros(len(sampled))
    for index in np.flatnonzero(lost):
        offsets[index] = np.median(sampled[index, between[index]]) - np.median(sampled[tissue])
    return offsets
