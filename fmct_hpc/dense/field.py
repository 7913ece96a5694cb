"""Resampling between a volume's voxels and a head's cells: masks to cells, and probabilities to voxels.

The cells divide a box of the volume (`Encoder.field`) evenly; both directions are one matrix product per
axis.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.fields import Edges


@dataclass(frozen=True)
class Cells:
    """Grid of cells in a box of a volume."""

    first: NDArray[np.float64]
    """(3,): the box's first voxel; its lower face is at index first - 0.5."""
    edges: NDArray[np.float64]
    """(3,): the box's size in voxels."""
    count: Edges
    """Cells along (D, H, W)."""
    shape: Edges
    """Shape of the volume."""

    def shares(self, planes: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The fraction of each cell's volume that a mask fills: bool (C, D, H, W) -> (C, *count).

        Outside of the volume the mask is empty.
        """
        averaged = planes.astype(np.float32)
        for axis in range(3):
            averaged = _along(averaged, self._overlaps(axis), axis + 1)
        return averaged

    def probabilities(self, of_cells: NDArray[np.float32]) -> NDArray[np.float32]:
        """Interpolate the cells' values (C, *count) to the voxels' centres: float32 (C, D, H, W).

        Linear between cell centres, constant beyond the outermost ones, and 0 outside of the box.
        """
        interpolated = of_cells.astype(np.float32)
        for axis in range(3):
            interpolated = _along(interpolated, self._weights(axis), axis + 1)
        return interpolated

    def _overlaps(self, axis: int) -> NDArray[np.float32]:
        """(cells, voxels): the fraction of a cell that each voxel fills."""
        edges = self.first[axis] - 0.5 + self.edges[axis] * np.arange(self.count[axis] + 1) / self.count[axis]
        low, high = edges[:-1, None], edges[1:, None]
        voxels = np.arange(self.shape[axis])[None]
        overlap = np.minimum(high, voxels + 0.5) - np.maximum(low, voxels - 0.5)
        return (np.clip(overlap, 0, None) / (high - low)).astype(np.float32)

    def _weights(self, axis: int) -> NDArray[np.float32]:
        """(voxels, cells): interpolation weights."""
        count = self.count[axis]
        place = (np.arange(self.shape[axis]) + 0.5 - self.first[axis]) / self.edges[axis]
        at = np.clip(place * count - 0.5, 0, count - 1)
        weights = np.clip(1 - np.abs(at[:, None] - np.arange(count)[None]), 0, None)
        weights[(place < 0) | (place > 1)] = 0
        return weights.astype(np.float32)


def _along(values: NDArray[np.float32], matrix: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Multiply the matrix (n, m) with an axis of m values."""
    return np.asarray(np.moveaxis(np.tensordot(matrix, values, axes=(1, axis)), 0, axis), np.float32)
