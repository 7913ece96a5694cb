"""Whether a volume is a head at all, where no header says so: by its size, shape, lungs, and brain."""

import numpy as np

from preprocess.qc.brain import brain_objection
from preprocess.qc.proportions import shape_objection
from preprocess.reasons import Reason, Rejection
from preprocess.volume.crop import COARSE_MM, largest_object

LUNG_HU = (-950, -600)
"""Well aerated lung lies between -900 and -500 (Gattinoni et al. 2001), the skin's edge about -500."""
MOST_LUNG = 0.1
"""Edges and hair take 2 to 4 % of a head, lungs a third of a chest."""
_DENSE_HU = -500


def require_head(voxels: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
    """Raise Rejection(not_a_head) for a volume, int16 HU (D, H, W) as stored, that can be none."""
    objection = head_objection(voxels, spacing_mm)
    if objection:
        raise Rejection(Reason.NOT_A_HEAD, objection)


def head_objection(voxels: np.ndarray, spacing_mm: tuple[float, float, float]) -> str | None:
    """Why a volume, int16 HU (D, H, W) as stored, can be no head, in one line; None where it can."""
    steps = tuple(max(1, round(COARSE_MM / spacing)) for spacing in spacing_mm)
    coarse = voxels[tuple(slice(None, None, step) for step in steps)]
    down, back, across = (step * spacing for step, spacing in zip(steps, spacing_mm, strict=True))
    mask = largest_object(coarse > _DENSE_HU, np.zeros(coarse.shape, bool))
    if not mask.any():
        return "nothing dense in it"
    inside = coarse[mask]
    lung = float(((inside > LUNG_HU[0]) & (inside < LUNG_HU[1])).mean())
    if lung > MOST_LUNG:
        return f"{lung:.0%} of it is as dense as lung"
    return shape_objection(mask, (down, back, across)) or brain_objection(voxels, spacing_mm)
