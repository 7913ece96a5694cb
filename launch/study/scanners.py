"""The study's simulated scanners, on the study's coarse grid."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

FINE = 2
"""Oversampling factor per axis of the rendered head relative to the stored grid."""


@dataclass(frozen=True)
class StudyScanner:
    """Image properties of a scanner. Lengths in mm, intensities in HU."""

    name: str
    thickness: float
    """Slice thickness: a box along D."""
    blur: float
    """Sigma of the reconstruction kernel in the slice plane."""
    sharpening: float
    """Weight of the added high frequencies (edge-enhancing kernel), 0 to 1."""
    noise: float
    """Standard deviation per stored voxel."""
    noise_grain: float
    """Sigma of the noise correlation, in stored voxels."""
    offset: float
    """Calibration offset; that of an exam is within 1.5 HU of it."""
    gain: float
    """Calibration gain; 1 is exact."""
    cupping: float
    """Beam hardening: decrease in HU at the centre of the head relative to its rim."""
    streak: float
    """Beam hardening between the petrous bones: depth of the dark band in HU."""


SEEN = (
    StudyScanner("A", 7.0, 1.6, 0.0, 4.0, 0.4, 0.0, 1.00, 1.0, 4.0),
    StudyScanner("B", 5.0, 1.2, 0.3, 5.0, 0.2, 2.0, 1.01, 2.0, 6.0),
    StudyScanner("C", 9.0, 2.2, 0.0, 3.5, 0.5, -2.0, 0.99, 0.0, 5.0),
    StudyScanner("D", 6.0, 1.8, 0.5, 4.5, 0.3, 3.0, 1.00, 3.0, 8.0),
)
"""Scanners of pretraining, labels and the in-distribution test, alternating."""
UNSEEN = (
    StudyScanner("E", 11.0, 3.0, 0.0, 4.5, 0.6, -5.0, 0.97, 4.0, 10.0),
    StudyScanner("F", 4.0, 0.8, 0.8, 6.5, 0.1, 5.0, 1.03, 3.0, 8.0),
)
"""Scanners of the out-of-distribution test only: outside the range of the seen ones in most properties."""


def acquire(
    fine_hu: np.ndarray, spacing: float, scanner: StudyScanner, rng: np.random.Generator
) -> np.ndarray:
    """int16 HU (n, n, n) by `scanner`, of a clean head rendered at spacing / FINE, (FINE · n)³."""
    step = spacing / FINE
    # A Gaussian with the standard deviation of a box; the shape makes no difference on a grid this coarse.
    hu = ndimage.gaussian_filter(fine_hu, (scanner.thickness / 12**0.5 / step, *2 * (scanner.blur / step,)))
    if scanner.sharpening:
        hu += scanner.sharpening * (hu - ndimage.gaussian_filter(hu, (0, 4 / step, 4 / step)))
    n = len(hu) // FINE
    hu = hu.reshape(n, FINE, n, FINE, n, FINE).mean(axis=(1, 3, 5))
    noise = ndimage.gaussian_filter(rng.standard_normal(hu.shape), scanner.noise_grain)
    z, y, x = np.meshgrid(*(3 * [(np.arange(n) - (n - 1) / 2) * spacing]), indexing="ij")
    inside = hu > -300
    hardening = -scanner.cupping * np.exp(-(x**2 + y**2) / 45**2)
    hardening -= scanner.streak * np.exp(-(((z + 32) / 14) ** 2) - ((y + 8) / 16) ** 2)
    offset = scanner.offset + rng.uniform(-1.5, 1.5)
    hu = np.where(inside, hu * scanner.gain + offset + hardening, hu) + noise * (scanner.noise / noise.std())
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
