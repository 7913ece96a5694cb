"""Agreement of maps with masks of the true finding, and baselines that are independent of the classifier.

There are two metrics of the map's positive part. The share of relevance within the mask: the sum of each
patch's value times the fraction of the patch that the mask fills, divided by the sum of all values
("energy-based pointing game", Wang et al. 2020, "Score-CAM"). The pointing game (Zhang et al. 2018, "Top-down
neural attention by excitation backprop"): whether the centre of the patch with the greatest value is within a
tolerance of the mask.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from fmct_hpc.probe.statistics.bootstrap import Draws, resample_counts
from fmct_hpc.relevance.patch_grid import PatchGrid

CENTRE_DEVIATION = 0.25
"""Standard deviation of the centre prior relative to the view's edge: most of it is within the brain."""


class Figures(NamedTuple):
    """Metrics of one map."""

    share: float
    """In [0, 1]; 0 for a map without positive values."""
    pointed: float
    """1 or 0; for a random map, the probability."""


@dataclass(frozen=True)
class Truth:
    """A mask in relation to the patches of a scan's view."""

    filled: NDArray[np.float64]
    """(d, h, w): the fraction of each patch that the mask fills."""
    distance_mm: NDArray[np.float64]
    """(d, h, w): from each patch's centre to the nearest voxel of the mask."""

    @classmethod
    def of(cls, points_lps: NDArray[np.float64], voxel_mm3: float, grid: PatchGrid) -> "Truth":
        """points_lps: centres of the mask's voxels, mm (M, 3), M at least 1, of `voxel_mm3` each."""
        patches = grid.patch_of(points_lps)
        inside = patches[patches[:, 0] >= 0]
        counts = np.zeros(grid.shape)
        np.add.at(counts, tuple(inside.T), 1)
        distance, _ = cKDTree(points_lps).query(grid.centres_lps().reshape(-1, 3))
        filled = np.minimum(counts * voxel_mm3 / grid.patch_mm3, 1)
        return cls(filled, np.asarray(distance).reshape(grid.shape))

    def measure(self, values: NDArray[np.float32], tolerance_mm: float) -> Figures:
        """A map's metrics; the first of equal maxima is used."""
        positive = np.maximum(values.astype(np.float64), 0)
        total = positive.sum()
        if total == 0:
            return Figures(0.0, 0.0)
        pointed = self.distance_mm.reshape(-1)[positive.argmax()] <= tolerance_mm
        return Figures(float((positive * self.filled).sum() / total), float(pointed))

    def of_random(self, tolerance_mm: float) -> Figures:
        """The expected metrics of a map with identically distributed random values, computed exactly."""
        return Figures(float(self.filled.mean()), float((self.distance_mm <= tolerance_mm).mean()))

    def greatest(self, tolerance_mm: float) -> Figures:
        """The upper bound of the metrics: all relevance in the patch with the largest part of the mask."""
        return Figures(float(self.filled.max()), float((self.distance_mm <= tolerance_mm).any()))


def centre_prior(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """A Gaussian around the view's centre (d, h, w)."""
    axes = [((np.arange(n) + 0.5) / n - 0.5) / CENTRE_DEVIATION for n in shape]
    squares = sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij"))
    return np.asarray(np.exp(-squares / 2), np.float32)


def means(
    figures: NDArray[np.float64], patients: NDArray[np.int64], resamples: int, seed: int = 0
) -> list[Draws]:
    """Means over volumes, and over resamples of patients: one `Draws` per column.

    figures: (volumes, K); patients: the patient number of each volume, from 0. All columns have the same
    resamples, so that their differences are paired.
    """
    count = int(patients.max()) + 1
    sums = np.zeros((count, figures.shape[1]))
    np.add.at(sums, patients, figures)
    volumes = np.bincount(patients, minlength=count).astype(np.float64)
    drawn = [
        (rows @ sums) / (rows @ volumes)[:, None]
        for rows in (some.astype(np.float64) for some in resample_counts(count, resamples, seed))
    ]
    resampled = np.concatenate(drawn)
    return [Draws(float(column.mean()), own) for column, own in zip(figures.T, resampled.T, strict=True)]
