"""Whether all slices of a stack have one scale, by comparing neighbours, independent of headers."""

import numpy as np

from preprocess.anatomy.objects import DENSE_HU
from preprocess.dicom.geometry import STRAY_SLICES
from preprocess.reasons import Reason, Rejection

LEVEL_HU = 700.0
"""Most pixels change less between slices: air stays air, and brain stays brain. A missing Rescale Intercept
(1000 or 1024) changes all of them."""
SEEN_SHARE, SEEN_SHARE_OF_MANY = 0.25, 0.05
"""Least share of the pixels with tissue in the slices below and above that have tissue in one between them:
on a scale 1024 HU too low, bone stays above `DENSE_HU`. More than `STRAY_SLICES` between can be a neck."""
SHARED = 0.5
"""Least ratio of the tissue that the slices below and above share to that of the larger one, and to that of
half of the slices: at the end of a head, before air and another object, they have less."""
MIN_PIXELS = 8
"""Fewest pixels with tissue that are compared."""
_EVERY = 8
"""Every n-th pixel along rows and columns is compared: 4096 of a slice of 512²."""


def off_scale(hu: np.ndarray) -> np.ndarray:
    """float64 (N,): HU offset of slices, int16 (N, rows, columns), from the majority; 0 for the majority.

    A slice on a higher scale has other air than its neighbours. On a lower one, or if its pixels were lost,
    it has air where the slices around it have tissue: decoding makes air of what is below the scale.

    Raises Rejection(not_hounsfield) if more than `STRAY_SLICES` have an offset.
    """
    sampled = hu[:, ::_EVERY, ::_EVERY].astype(np.int32).reshape(len(hu), -1)
    jumps = np.median(np.diff(sampled, axis=0), axis=1)
    levels = np.concatenate([[0.0], np.cumsum(np.where(np.abs(jumps) > LEVEL_HU, jumps, 0.0))])
    offsets = levels - np.sort(levels)[len(levels) // 2]
    offsets[np.abs(offsets) <= LEVEL_HU] = 0.0
    offsets = np.where(offsets == 0, _lost_tissue(sampled - offsets[:, None]), offsets)
    off = np.count_nonzero(offsets)
    if off > STRAY_SLICES * len(hu):
        detail = f"{off} of {len(hu)} slices are {np.abs(offsets).max():.0f} HU off the others"
        raise Rejection(Reason.NOT_HOUNSFIELD, detail)
    return offsets


def _lost_tissue(sampled: np.ndarray) -> np.ndarray:
    """float64 (N,): HU offset of slices, (N, pixels), with air where others around have tissue; else 0."""
    tissue = sampled > DENSE_HU
    areas = np.count_nonzero(tissue, axis=1)
    offsets = np.zeros(len(sampled))
    usual = np.median(areas[areas >= MIN_PIXELS]) if (areas >= MIN_PIXELS).any() else 0
    for below in np.flatnonzero(areas[:-2] >= MIN_PIXELS):
        larger = np.flatnonzero(areas[below + 1 :] >= SHARED * areas[below])
        if not larger.size or not larger[0]:
            continue
        above = below + 1 + larger[0]
        both = tissue[below] & tissue[above]
        shared = np.count_nonzero(both)
        if shared < SHARED * max(areas[below], areas[above], usual):
            continue
        between = sampled[below + 1 : above, both]
        least = SEEN_SHARE if len(between) <= STRAY_SLICES * len(sampled) else SEEN_SHARE_OF_MANY
        if (np.count_nonzero(between > DENSE_HU, axis=1) < least * shared).all():
            offsets[below + 1 : above] = np.median(between, axis=1) - np.median(sampled[tissue])
    return offsets
