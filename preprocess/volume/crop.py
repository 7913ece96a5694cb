"""Locating the head in a scan, and the box to keep, without table and head holder."""

from dataclasses import dataclass

import numpy as np

from preprocess.anatomy.objects import COARSE_MM, largest_object
from preprocess.anatomy.profile import Anatomy
from preprocess.dicom.geometry import Stack
from preprocess.reasons import Reason, Rejection
from preprocess.volume.resample import Grid, box, field, resample
from shards.voxels import INDEX_STEPS

UNSEEN = int(np.iinfo(np.int16).min)
"""Marks voxels outside the scan, so that erosion does not start at the scan's edge."""
MAX_EXTENT_MM = 1_500.0
"""Largest extent of a scan along the patient's axes: more than an image of `WIDEST_MM` rotated by 45°, or 400
mm of tilted ones. A larger scan has slices far to the side of one another and would exhaust memory."""


@dataclass(frozen=True)
class Head:
    """The head on a coarse grid over the whole scanned field."""

    grid: Grid
    """Grid of the field at `COARSE_MM`."""
    hu: np.ndarray
    """int16 (D, H, W) on the grid; `UNSEEN` outside the scan."""
    mask: np.ndarray
    """bool (D, H, W): the head with the air it encloses."""

    def box(self, spacing: tuple[float, float, float], margin_mm: float) -> Grid:
        """The grid of `spacing` around the head with `margin_mm`, within the scanned field."""
        indices = np.argwhere(self.mask)
        first = INDEX_STEPS @ self.grid.origin
        # Voxels extend half an edge beyond their centres.
        low_mm = first + (indices.min(axis=0) - 0.5) * COARSE_MM - margin_mm
        high_mm = first + (indices.max(axis=0) + 0.5) * COARSE_MM + margin_mm
        edges = first - 0.5 * COARSE_MM, first + (np.array(self.grid.shape) - 0.5) * COARSE_MM
        return box(np.maximum(low_mm, edges[0]), np.minimum(high_mm, edges[1]), spacing)


def find_head(hu: np.ndarray, slices: Stack, threshold: float, anatomy: Anatomy) -> Head:
    """The largest object of a scan that is denser than air.

    hu: (N, rows, columns) HU; threshold: HU that separates the head from air.
    Raises Rejection(no_head_found) if no denser object has the size of a head, and
    Rejection(invalid_geometry) if the slices extend over more than `MAX_EXTENT_MM`.
    """
    coarse = field(slices, (COARSE_MM, COARSE_MM, COARSE_MM))
    extent = max(coarse.shape) * COARSE_MM
    if extent > MAX_EXTENT_MM:
        raise Rejection(Reason.INVALID_GEOMETRY, f"the slices extend over {extent:.0f} mm")
    values = resample(hu, slices, coarse, UNSEEN, smooth=False)
    mask = largest_object(values > threshold, values == UNSEEN)
    volume_ml = mask.sum() * COARSE_MM**3 / 1000
    if volume_ml < anatomy.min_ml:
        raise Rejection(
            Reason.NO_HEAD_FOUND, f"the largest object above {threshold:g} HU has {volume_ml:.0f} ml"
        )
    return Head(coarse, values, mask)
