"""Between a volume's voxels and the cells that a head speaks of: shares of a mask, and probabilities back.

The cells divide a box of the volume (`Encoder.field`) evenly; both ways are products of one matrix an axis.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.fields import Edges


@dataclass(frozen=True)
class Cells:
    """Cells over a box of one volume."""

    first: NDArray[np.float64]
    """(3,): the box's first voxel; its lower face is at index first - 0.5."""
    edges: NDArray[np.float64]
    """(3,): its voxels."""
    count: Edges
    """Cells along (D, H, W)."""
    shape: Edges
    """Of the volume."""

    def shares(self, planes: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The share of each cell's room that a mask fills: bool (C, D, H, W) -> (C, *count).

        Beyond the volume is nothing.
        """
        found = planes.astype(np.float32)
        for axis in range(3):
            found = _along(found, self._overlaps(axis), axis + 1)
        return found

    def probabilities(self, of_cells: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values of cells (C, *count) at the voxels' centres: float32 (C, D, H, W).

        Linear between the cells' centres, constant beyond the outermost; 0 outside the box.
        """
        found = of_cells.astype(np.float32)
        for axis in range(3):
            found = _along(found, self._weights(axis), axis + 1)
        return found

    def _overlaps(self, axis: int) -> NDArray[np.float32]:
        """(cells, voxels): the share of a cell that each voxel fills."""
        edges = self.first[axis] - 0.5 + self.edges[axis] * np.arange(self.count[axis] + 1) / self.count[axis]
        low, high = edges[:-1, None], edges[1:, None]
        voxels = np.arange(self.shape[axis])[None]
        overlap = np.minimum(high, voxels + 0.5) - np.maximum(low, voxels - 0.5)
        return (np.clip(overlap, 0, None) / (high - low)).astype(np.float32)

    def _weights(self, axis: int) -> NDArray[np.float32]:
        """(voxels, cells): how a voxel's value is made of cells'."""
        count = self.count[axis]
        place = (np.arange(self.shape[axis]) + 0.5 - self.first[axis]) / self.edges[axis]
        at = np.clip(place * count - 0.5, 0, count - 1)
        weights = np.clip(1 - np.abs(at[:, None] - np.arange(count)[None]), 0, None)
        weights[(place < 0) | (place > 1)] = 0
        return weights.astype(np.float32)


def _along(values: NDArray[np.float32], matrix: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """The matrix (n, m) times the axis of m values."""
    return np.asarray(np.moveaxis(np.tensordot(matrix, values, axes=(1, axis)), 0, axis), np.float32)
