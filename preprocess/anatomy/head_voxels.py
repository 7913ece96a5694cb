"""Voxel checks of a head, independent of headers: whether it is a head, and contrast in its vessels."""

import numpy as np

from preprocess.anatomy.brain import Coarse, brain_objection, coarse
from preprocess.anatomy.head import HEAD
from preprocess.anatomy.plausible import objection
from preprocess.anatomy.vessels import enhanced_vessels
from preprocess.reasons import Reason


def shown(
    voxels: np.ndarray, spacing_mm: tuple[float, float, float], enhanced_by_header: bool | None
) -> dict[Reason, str]:
    """The findings of `VOXELS_SHOW` for a stored volume, int16 HU (D, H, W), with one line each.

    enhanced_by_header: whether its headers state contrast; if they do, the voxels are not searched for it.
    """
    rings = coarse(voxels, spacing_mm)
    not_a_head = head_objection(voxels, spacing_mm, rings)
    if not_a_head:
        return {Reason.NOT_A_HEAD: not_a_head}
    vessels = None if enhanced_by_header else enhanced_vessels(voxels, spacing_mm, rings)
    return {Reason.VESSELS_ENHANCED: vessels} if vessels else {}


def head_objection(voxels: np.ndarray, spacing_mm: tuple[float, float, float], rings: Coarse) -> str | None:
    """Why a stored volume, int16 HU (D, H, W), cannot be a head, in one line; None if it can.

    rings: its rings of bone (preprocess.anatomy.brain).
    """
    return objection(voxels, spacing_mm, HEAD) or brain_objection(rings)
