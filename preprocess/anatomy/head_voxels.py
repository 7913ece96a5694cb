"""What a head's voxels show, whatever headers say: whether it is a head, and an agent in its vessels."""

import numpy as np

from preprocess.anatomy.brain import Coarse, brain_objection, coarse
from preprocess.anatomy.head import HEAD
from preprocess.anatomy.plausible import objection
from preprocess.anatomy.vessels import enhanced_vessels
from preprocess.reasons import Reason


def shown(
    voxels: np.ndarray, spacing_mm: tuple[float, float, float], told_enhanced: bool | None
) -> dict[Reason, str]:
    """The findings of `VOXELS_SHOW` about a volume, int16 HU (D, H, W) as stored, with a line each.

    told_enhanced: whether its headers state an agent; if they do, none is searched for.
    """
    rings = coarse(voxels, spacing_mm)
    found = head_objection(voxels, spacing_mm, rings)
    if found:
        return {Reason.NOT_A_HEAD: found}
    vessels = None if told_enhanced else enhanced_vessels(voxels, spacing_mm, rings)
    return {Reason.VESSELS_ENHANCED: vessels} if vessels else {}


def head_objection(voxels: np.ndarray, spacing_mm: tuple[float, float, float], rings: Coarse) -> str | None:
    """Why a volume, int16 HU (D, H, W) as stored, can be no head, in one line; None where it can.

    rings: its rings of bone (preprocess.anatomy.brain).
    """
    return objection(voxels, spacing_mm, HEAD) or brain_objection(rings)
