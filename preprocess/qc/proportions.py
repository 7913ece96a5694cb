"""Whether something is as large as a head along each axis, and shaped as one: a wrong spacing shows so."""

import numpy as np

UPPER_MM = 100.0
"""Below it may follow neck and shoulders."""
WIDE_MM, LONG_MM = (76.0, 230.0), (92.0, 280.0)
"""Men's heads are 152 ± 5 mm in breadth and 197 ± 7 mm in length (Gordon et al. 1989, ANSUR); ears, nose,
hair, a bandage and the pads of a head holder add to that, and an adult's chest is wider. A newborn's at
term are 93 and 115 mm, of which the planes about the widest leave nine tenths; half an adult's is less."""
MOST_ACROSS_MM = 255.0
"""Diameter of a disc as large as the largest plane: an ellipse of the greatest breadth and length."""
CEPHALIC_INDEX = (0.55, 1.1)
"""Breadth over length: 0.7 to 0.9 in adults, 0.6 and 1.05 at the ends of what skulls grow to; an axis of
half or double length leaves 0.4 or 1.5."""
CROWN, SHOULDER = 0.1, 0.8
DOME = (0.18, 0.40)
"""From where a plane has `CROWN` of the largest one's area down to where it has `SHOULDER`, over the root of
that area. A sphere's is 0.28, the generator's heads have 0.28 to 0.32, with half or double their height 0.14
to 0.16 and 0.42 to 0.49."""
CUT_TOP = 0.35
"""Of the largest plane's area, in the topmost plane: 18 mm cut off a sphere of 80 mm radius leave 0.4."""
_CAUSE = "another body part, or a wrong spacing"


def shape_objection(mask: np.ndarray, edges_mm: tuple[float, float, float]) -> str | None:
    """Why an object cannot be a head, in one line; None where it can.

    mask: bool (D, H, W), the object, not empty; edges_mm: of its voxels. Its height is judged by its top, for
    below a scan ends where it likes, and not where the top is cut.
    """
    top = int(np.flatnonzero(mask.any(axis=(1, 2)))[-1])
    upper = mask[max(0, top + 1 - round(UPPER_MM / edges_mm[0])) : top + 1][::-1]
    areas = upper.sum(axis=(1, 2)) * (edges_mm[1] * edges_mm[2])
    wide, long = (float(np.median(upper.any(axis=axis).sum(axis=1) * edges_mm[3 - axis])) for axis in (1, 2))
    across, dome = float(2 * np.sqrt(areas.max() / np.pi)), _dome(areas, edges_mm[0])
    for size, (least, most), what in (
        (wide, WIDE_MM, "mm wide"),
        (long, LONG_MM, "mm from front to back"),
        (across, (0.0, MOST_ACROSS_MM), "mm across"),
        (wide / long, CEPHALIC_INDEX, "times as wide as long"),
        (dome, DOME, "of its width from crown to shoulder"),
    ):
        if size is not None and not least <= size <= most:
            bound = f"least {least:g}" if size < least else f"most {most:g}"
            return f"{size:.3g} {what}, a head is at {bound}: {_CAUSE}"
    return None


def _dome(areas: np.ndarray, plane_mm: float) -> float | None:
    """How fast planes grow from the top on; None where the top is cut. areas: mm² of planes, downwards."""
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
