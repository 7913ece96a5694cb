"""From a series of the catalog to one volume."""

from dataclasses import dataclass

import numpy as np

from preprocess.reasons import Reason
from shards.schema import DecodeFacts


@dataclass(frozen=True)
class Volume:
    """A head on the canonical grid."""

    voxels: np.ndarray
    """int16 HU, axes (D, H, W) growing towards superior, anterior, right."""
    affine: np.ndarray
    """float64 (4, 4): (d, h, w, 1) to patient LPS mm, at voxel centres."""
    facts: DecodeFacts
    source_digest: str
    """SHA-256 over the used slices in geometric order: stored pixel values, rescale and geometry."""
    dropped: tuple[tuple[Reason, int], ...]
    """Slices of the series that are not in the volume, counted by reason, in the reasons' order."""
