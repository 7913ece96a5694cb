"""Positions of the patches of a scan's view, in the scan and in the patient."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.inference.readers import Scan
from fmct_hpc.train.export import EncoderInfo


@dataclass(frozen=True)
class PatchGrid:
    """The box of a view in a volume's index (d, h, w), divided into equal patches."""

    first: NDArray[np.float64]
    edges: NDArray[np.float64]
    """(3,) each, between the outer faces; the box may extend beyond the volume."""
    shape: tuple[int, int, int]
    """Patches along (D, H, W)."""
    affine: NDArray[np.float64]
    """(4, 4): the volume's index (d, h, w, 1) to patient LPS mm."""

    @classmethod
    def of(cls, scan: Scan, info: EncoderInfo) -> "PatchGrid":
        """The grid of an encoder's view of `scan`; info: of the encoder."""
        return cls(*info.view_box(scan.voxels, scan.spacing_mm), info.patch_grid, scan.affine)

    @property
    def patch_mm3(self) -> float:
        """Volume of one patch, mm³."""
        voxel = abs(np.linalg.det(self.affine[:3, :3]))
        return float(voxel * np.prod(self.edges / self.shape))

    def centres_lps(self) -> NDArray[np.float64]:
        """Centres of the patches, LPS mm: (d, h, w, 3)."""
        index = np.moveaxis(np.indices(self.shape), 0, -1) + 0.5
        return self._to_lps(self.first + index * self.edges / self.shape)

    def patch_of(self, points_lps: NDArray[np.float64]) -> NDArray[np.int64]:
        """The patch of each point: LPS mm (N, 3) -> (N, 3); -1 outside of the view."""
        inverse = np.linalg.inv(self.affine)
        return self._patch_of_index(points_lps @ inverse[:3, :3].T + inverse[:3, 3])

    def on_volume(self, values: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Values of patches (d, h, w) on a volume's voxels (D, H, W); 0 outside of the view."""
        ranges = [np.arange(size) for size in shape]
        numbers = [self._along(axis, places.astype(np.float64)) for axis, places in enumerate(ranges)]
        padded = np.pad(values, [(0, 1)] * 3)  # number -1 reads a 0
        return padded[np.ix_(*numbers)]

    def _patch_of_index(self, index: NDArray[np.float64]) -> NDArray[np.int64]:
        patches = np.stack([self._along(axis, index[:, axis]) for axis in range(3)], axis=1)
        return np.where((patches < 0).any(axis=1, keepdims=True), -1, patches)

    def _along(self, axis: int, places: NDArray[np.float64]) -> NDArray[np.int64]:
        count = self.shape[axis]
        numbers = np.floor((places - self.first[axis]) / (self.edges[axis] / count)).astype(np.int64)
        return np.where((numbers >= 0) & (numbers < count), numbers, -1)

    def _to_lps(self, index: NDArray[np.float64]) -> NDArray[np.float64]:
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]
