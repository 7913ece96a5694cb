"""Morphology of masks with the neighbours that share a face: SciPy's results, by shifted copies in less time.

SciPy visits voxels one by one, and its `binary_fill_holes` grows the outside step by step.
"""

import numpy as np
from scipy import ndimage

_IN_PLANE = ndimage.generate_binary_structure(3, 1) & np.array([False, True, False])[:, None, None]


def dilated(mask: np.ndarray, rounds: int = 1, within: np.ndarray | None = None) -> np.ndarray:
    """`mask`, bool (D, H, W), grown by one voxel in each round, only to voxels of `within`, if given."""
    for _ in range(rounds):
        grown = mask.copy()
        for low, high in _pairs(mask.ndim):
            grown[low] |= mask[high]
            grown[high] |= mask[low]
        mask = grown if within is None else mask | (grown & within)
    return mask


def eroded(mask: np.ndarray) -> np.ndarray:
    """`mask`, bool (D, H, W), without voxels next to others; those beyond the array count as part of it."""
    left = mask.copy()
    for low, high in _pairs(mask.ndim):
        left[low] &= mask[high]
        left[high] &= mask[low]
    return left


def filled(mask: np.ndarray) -> np.ndarray:
    """`mask`, bool (D, H, W), with the holes of each plane (H, W): what is not connected to its border."""
    labels, count = ndimage.label(~mask, _IN_PLANE)
    outside = np.zeros(count + 1, bool)
    for border in (labels[:, [0, -1]], labels[:, :, [0, -1]]):
        outside[border] = True
    outside[0] = False  # the mask itself
    inside: np.ndarray = ~outside[labels]
    return inside


def _pairs(axes: int) -> list[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Along each axis: the places of all voxels that have a next one, and those of the next ones."""
    return [
        ((*before, slice(None, -1)), (*before, slice(1, None)))
        for before in ((slice(None),) * axis for axis in range(axes))
    ]
