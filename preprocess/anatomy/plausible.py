"""Can a volume be of a part of the body? By its size, its shape, and the air in its tissue."""

import numpy as np

from preprocess.anatomy.objects import thinned_object
from preprocess.anatomy.profile import Anatomy
from preprocess.anatomy.proportions import shape_objection

LUNG_HU = (-950, -600)
"""Well aerated lung lies between -900 and -500 (Gattinoni et al. 2001), the skin's edge about -500."""


def objection(voxels: np.ndarray, spacing_mm: tuple[float, float, float], anatomy: Anatomy) -> str | None:
    """Why a volume, int16 HU (D, H, W) as stored, can't be of `anatomy`, in one line; None where it can."""
    some, mask, edges_mm = thinned_object(voxels, spacing_mm)
    if not mask.any():
        return "nothing dense in it"
    inside = some[mask]
    lung = float(((inside > LUNG_HU[0]) & (inside < LUNG_HU[1])).mean())
    if lung > anatomy.most_lung:
        return f"{lung:.0%} of it is as dense as lung"
    return shape_objection(mask, edges_mm, anatomy)
