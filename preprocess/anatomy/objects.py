"""The largest dense object of a volume, without table, holder and blankets."""

import numpy as np
from scipy import ndimage

from preprocess.anatomy.neighbours import dilated, eroded, filled

COARSE_MM = 4.0
"""Voxel edge of the search. One erosion cuts off anything thinner than two voxels (a holder's or table's
shell, a tube, a blanket), and the largest remaining object is kept; a thicker support that touches it stays
in the box."""
DENSE_HU = -500
"""Halfway between air and soft tissue."""


def largest_object(dense: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """The largest component of `dense` with the air it encloses, without thin attachments.

    Both bool (D, H, W); opened by one voxel, but not along the border of `unknown`.
    """
    # Air inside (sinuses, a hollow phantom) is filled plane by plane, so that thin walls are not eroded.
    dense = filled(dense) & ~unknown
    cores = eroded(dense | unknown) & dense
    labels, count = ndimage.label(cores)
    if not count:
        return cores
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    # Two dilations within the dense voxels: one reverses the erosion, one restores ears and nose.
    return dilated(labels == sizes.argmax(), 2, dense)


def thinned_object(
    voxels: np.ndarray, spacing_mm: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """The largest dense object of a stored volume, int16 HU (D, H, W), in voxels of about `COARSE_MM`.

    Returns the coarse voxels, HU (d, h, w), the object in them, bool (d, h, w), and their edges in mm.
    """
    steps = tuple(max(1, round(COARSE_MM / spacing)) for spacing in spacing_mm)
    some = voxels[tuple(slice(None, None, step) for step in steps)]
    down, back, across = (step * spacing for step, spacing in zip(steps, spacing_mm, strict=True))
    return some, largest_object(some > DENSE_HU, np.zeros(some.shape, bool)), (down, back, across)
