"""Whether a volume is a head at all, where no header says so: by its size, by lungs, and by its brain."""

import numpy as np

from preprocess.qc.brain import brain_objection
from preprocess.reasons import Reason, Rejection
from preprocess.volume.crop import COARSE_MM, largest_object

UPPER_MM = 100.0
"""Below it may follow neck and shoulders."""
MOST_WIDE_MM, MOST_LONG_MM = 230.0, 280.0
"""Men's heads are 152 ± 5 mm in breadth and 197 ± 7 mm in length (Gordon et al. 1989, ANSUR); ears, nose,
hair, a bandage and the pads of a head holder add to that, and an adult's chest is wider."""
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
    edges = [step * spacing for step, spacing in zip(steps, spacing_mm, strict=True)]
    mask = largest_object(coarse > _DENSE_HU, np.zeros(coarse.shape, bool))
    if not mask.any():
        return "nothing dense in it"
    top = int(np.flatnonzero(mask.any(axis=(1, 2)))[-1])
    upper = mask[max(0, top + 1 - round(UPPER_MM / edges[0])) : top + 1]
    for axis, most, what in ((1, MOST_WIDE_MM, "wide"), (2, MOST_LONG_MM, "from front to back")):
        extents = upper.any(axis=axis).sum(axis=1) * edges[3 - axis]
        size = float(np.median(extents))
        if size > most:
            return f"{size:.0f} mm {what}, a head is at most {most:g}: another part, or a wrong spacing"
    inside = coarse[mask]
    lung = float(((inside > LUNG_HU[0]) & (inside < LUNG_HU[1])).mean())
    if lung > MOST_LUNG:
        return f"{lung:.0%} of it is as dense as lung"
    return brain_objection(voxels, spacing_mm)
