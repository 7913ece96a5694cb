"""Whether an object has the size and shape of a body part, which also detects a wrong spacing."""

import numpy as np

from preprocess.anatomy.profile import Anatomy

CROWN, SHOULDER = 0.1, 0.8
"""A dome is the range from a plane with `CROWN` of the largest area down to one with `SHOULDER`."""
CUT_TOP = 0.35
"""Share of the largest area in the topmost plane: 18 mm cut off a sphere of 80 mm radius leave 0.4."""
_CAUSE = "another body part, or a wrong spacing"


def shape_objection(mask: np.ndarray, edges_mm: tuple[float, float, float], anatomy: Anatomy) -> str | None:
    """Why an object cannot be of `anatomy`, in one line; None if it can.

    mask: bool (D, H, W), the object, not empty; edges_mm: of its voxels. The height is judged only by the
    dome at the top, because scans end anywhere below, and not at all if the top is cut.
    """
    sizes = anatomy.sizes
    top = int(np.flatnonzero(mask.any(axis=(1, 2)))[-1])
    upper = mask[max(0, top + 1 - round(sizes.upper_mm / edges_mm[0])) : top + 1][::-1]
    areas = upper.sum(axis=(1, 2)) * (edges_mm[1] * edges_mm[2])
    wide, long = (float(np.median(upper.any(axis=axis).sum(axis=1) * edges_mm[3 - axis])) for axis in (1, 2))
    across = float(2 * np.sqrt(areas.max() / np.pi))
    dome = _dome(areas, edges_mm[0]) if sizes.dome else None
    for size, (low, high), what in (
        (wide, sizes.wide_mm, "mm wide"),
        (long, sizes.long_mm, "mm from front to back"),
        (across, (0.0, sizes.max_across_mm), "mm across"),
        (wide / long, sizes.wide_over_long, "times as wide as long"),
        (dome, sizes.dome or (0.0, 0.0), "of its width from crown to shoulder"),
    ):
        if size is not None and not low <= size <= high:
            bound = f"least {low:g}" if size < low else f"most {high:g}"
            return f"{size:.3g} {what}, a {anatomy.name} has at {bound}: {_CAUSE}"
    return None


def _dome(areas: np.ndarray, plane_mm: float) -> float | None:
    """Relative height of the dome; None if the top is cut. areas: mm² of planes, from the top."""
    largest = areas.max()
    if areas[0] >= CUT_TOP * largest:
        return None
    grown = np.concatenate([[0.0], areas])
    depths = []
    for share in (CROWN, SHOULDER):
        below = int(np.argmax(grown >= share * largest))
        above, reached = grown[below - 1], grown[below]
        depths.append(below - (reached - share * largest) / (reached - above))
    return float((depths[1] - depths[0]) * plane_mm / np.sqrt(largest))
