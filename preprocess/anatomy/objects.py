"""The largest dense object of a volume: what is judged, apart from table, holder and blankets."""

import numpy as np
from scipy import ndimage

COARSE_MM = 4.0
"""Voxel edge at which it is looked for. What is thinner than two voxels (a holder's or table's
shell, a tube, a blanket) is cut off by one erosion, and the largest rest is kept; a support that is
thicker than that and touches it stays in the box."""
DENSE_HU = -500
"""Half-way between air and soft tissue."""

_IN_PLANE = ndimage.generate_binary_structure(3, 1) & np.array([False, True, False])[:, None, None]


def largest_object(dense: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """The largest component of `dense` with the air it encloses, apart from what is thin.

    Both bool (D, H, W); it is opened by a voxel, but not along the border of the `unknown`.
    """
    # Air inside (sinuses, a hollow phantom) is filled plane by plane, so that thin walls are not eroded.
    dense = ndimage.binary_fill_holes(dense, _IN_PLANE) & ~unknown
    eroded = ndimage.binary_erosion(dense | unknown, border_value=1) & dense
    labels, count = ndimage.label(eroded)
    if not count:
        return eroded
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    # Two dilations within what is dense: one undoes the erosion, one takes back ears and nose.
    return ndimage.binary_dilation(labels == sizes.argmax(), iterations=2, mask=dense)


def thinned_object(
    voxels: np.ndarray, spacing_mm: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """The largest dense object of a volume, int16 HU (D, H, W) as stored, in voxels of some `COARSE_MM`.

    Returns those voxels, HU (d, h, w), the object in them, bool (d, h, w), and their edges in mm.
    """
    steps = tuple(max(1, round(COARSE_MM / spacing)) for spacing in spacing_mm)
    some = voxels[tuple(slice(None, None, step) for step in steps)]
    down, back, across = (step * spacing for step, spacing in zip(steps, spacing_mm, strict=True))
    return some, largest_object(some > DENSE_HU, np.zeros(some.shape, bool)), (down, back, across)
