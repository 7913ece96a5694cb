"""What a volume's voxels show, whatever headers say: whether it is a head, and an agent in its vessels."""

import numpy as np

from preprocess.qc.brain import Coarse, brain_objection, coarse
from preprocess.qc.proportions import shape_objection
from preprocess.qc.vessels import enhanced_vessels
from preprocess.reasons import Reason
from preprocess.volume.crop import COARSE_MM, largest_object

LUNG_HU = (-950, -600)
"""Well aerated lung lies between -900 and -500 (Gattinoni et al. 2001), the skin's edge about -500."""
MOST_LUNG = 0.1
"""Edges and hair take 2 to 4 % of a head, lungs a third of a chest."""
_DENSE_HU = -500


VOXELS_SHOW = (Reason.NOT_A_HEAD, Reason.VESSELS_ENHANCED)
"""Findings that are of the voxels, and of no measure."""


def shown(
    voxels: np.ndarray, spacing_mm: tuple[float, float, float], told_enhanced: bool | None
) -> dict[Reason, str]:
    """The findings of `VOXELS_SHOW` about a volume, int16 HU (D, H, W) as stored, with a line each.

    told_enhanced: whether its headers state an agent; if they do, none is searched for.
    """
    rings = coarse(voxels, spacing_mm)
    objection = head_objection(voxels, spacing_mm, rings)
    if objection:
        return {Reason.NOT_A_HEAD: objection}
    vessels = None if told_enhanced else enhanced_vessels(voxels, spacing_mm, rings)
    return {Reason.VESSELS_ENHANCED: vessels} if vessels else {}


def head_objection(voxels: np.ndarray, spacing_mm: tuple[float, float, float], rings: Coarse) -> str | None:
    """Why a volume, int16 HU (D, H, W) as stored, can be no head, in one line; None where it can.

    rings: its rings of bone (preprocess.qc.brain).
    """
    steps = tuple(max(1, round(COARSE_MM / spacing)) for spacing in spacing_mm)
    some = voxels[tuple(slice(None, None, step) for step in steps)]
    down, back, across = (step * spacing for step, spacing in zip(steps, spacing_mm, strict=True))
    mask = largest_object(some > _DENSE_HU, np.zeros(some.shape, bool))
    if not mask.any():
        return "nothing dense in it"
    inside = some[mask]
    lung = float(((inside > LUNG_HU[0]) & (inside < LUNG_HU[1])).mean())
    if lung > MOST_LUNG:
        return f"{lung:.0%} of it is as dense as lung"
    return shape_objection(mask, (down, back, across)) or brain_objection(rings)
