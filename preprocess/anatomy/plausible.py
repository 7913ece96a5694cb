"""Whether a volume can be of a body part, by its size, shape, and aerated tissue."""

import numpy as np

from preprocess.anatomy.objects import thinned_object
from preprocess.anatomy.profile import Anatomy
from preprocess.anatomy.proportions import shape_objection

LUNG_HU = (-950, -600)
"""Well aerated lung is between -900 and -500 (Gattinoni et al. 2001), the skin's edge about -500."""


def objection(voxels: np.ndarray, spacing_mm: tuple[float, float, float], anatomy: Anatomy) -> str | None:
    """Why a stored volume, int16 HU (D, H, W), cannot be of `anatomy`, in one line; None if it can."""
    some, mask, edges_mm = thinned_object(voxels, spacing_mm)
    if not mask.any():
        return "no dense object"
    inside = some[mask]
    lung = float(((inside > LUNG_HU[0]) & (inside < LUNG_HU[1])).mean())
    if lung > anatomy.max_lung:
        return f"{lung:.0%} of the object has the density of lung"
    return shape_objection(mask, edges_mm, anatomy)
