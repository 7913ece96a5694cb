"""Contrast-enhanced vessels: the arteries around the circle of Willis, and the large veins."""

import numpy as np

from preprocess.demo.shapes import Coordinates, Point, capsule, mirrored, paint, ramp

_PAIRED: tuple[tuple[Point, Point, float, float], ...] = (
    ((9, -10, -18), (11, -13, -10), 2.3, 2.0),
    ((11, -13, -10), (24, -15, -9), 1.7, 1.6),
    ((24, -15, -9), (37, -8, -4), 1.6, 1.4),
    ((37, -8, -4), (43, 4, 8), 1.4, 1.2),
    ((11, -13, -10), (1.5, -22, -7), 1.4, 1.2),
    ((1.5, -22, -7), (1.5, -42, 6), 1.2, 1.2),
    ((1.5, -42, 6), (1.5, -38, 30), 1.2, 1.1),
    ((1.5, -38, 30), (1.5, -5, 46), 1.1, 1.0),
    ((0, -2, -10), (13, 4, -9), 1.5, 1.4),
    ((13, 4, -9), (18, 22, -4), 1.4, 1.2),
    ((18, 22, -4), (14, 48, 2), 1.2, 1.0),
    ((3, 10, 12), (6, -8, 16), 1.0, 0.9),
)
"""Carotid end, middle, anterior and posterior cerebral arteries, internal cerebral veins; mirrored to the
left: start, end, radii in mm. Arteries' diameters are 2 to 4 mm (Krejza et al. 2006,
for carotid and middle cerebral arteries)."""
_MIDDLE: tuple[tuple[Point, Point, float, float], ...] = (
    ((0, -2, -10), (0, 0, -32), 1.6, 1.7),
    ((0, 24, 12), (0, 58, 14), 2.2, 3.0),
)
"""Basilar artery; vein of Galen and straight sinus."""


def paint_vessels(hu: np.ndarray, at: Coordinates, enhanced_hu: float) -> None:
    """Paint vessels with blood of `enhanced_hu` over the brain's `hu` (N,), in place."""
    depth = np.full_like(at[0], -50)
    pair = mirrored(at)
    for points, rods in ((pair, _PAIRED), (at, _MIDDLE)):
        for start, end, radius, end_radius in rods:
            np.maximum(depth, capsule(points, start, end, radius, end_radius), out=depth)
    paint(hu, ramp(depth, 1), enhanced_hu)
