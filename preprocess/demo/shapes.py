"""Soft-edged shapes over point coordinates, used to paint the synthetic anatomy.

Points are three float32 arrays x, y, z in mm. Distances are in mm and grow towards the inside of a shape.
"""

from collections.abc import Sequence

import numpy as np

EDGE_MM = 1.2
"""Width of the transition between tissues; near the resolution of a head CT."""

Point = Sequence[float]
Coordinates = tuple[np.ndarray, np.ndarray, np.ndarray]


def ramp(depth: np.ndarray, width: float = EDGE_MM) -> np.ndarray:
    """Share of a tissue in [0, 1] at `depth` mm inside its border, linear over `width` mm."""
    return np.clip(depth * np.float32(1 / width) + np.float32(0.5), 0, 1)


def paint(hu: np.ndarray, share: np.ndarray, value: np.ndarray | float) -> None:
    """Blend `value` (HU) over `hu` in place by `share` in [0, 1]."""
    hu += share * (value - hu)


def smoothstep(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, a cubic between; low > high falls instead."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def ellipsoid(at: Coordinates, centre: Point, radii: Point) -> np.ndarray:
    """Depth inside an ellipsoid, scaled by its smallest radius."""
    squares = [((q - c) / r) ** 2 for q, c, r in zip(at, centre, radii, strict=True)]
    return (1 - np.sqrt(squares[0] + squares[1] + squares[2])) * min(radii)


def capsule(at: Coordinates, start: Point, end: Point, radius: float, end_radius: float) -> np.ndarray:
    """Depth inside a rod from `start` to `end` whose radius changes linearly."""
    axis = [b - a for a, b in zip(start, end, strict=True)]
    length_square = sum(a * a for a in axis)
    relative = [q - a for q, a in zip(at, start, strict=True)]
    along = relative[0] * axis[0] + relative[1] * axis[1] + relative[2] * axis[2]
    along = np.clip(along / length_square, 0, 1)
    squares = [(r - along * a) ** 2 for r, a in zip(relative, axis, strict=True)]
    distance = np.sqrt(squares[0] + squares[1] + squares[2])
    return radius + (end_radius - radius) * along - distance


def gyroid(at: Coordinates, wavelength: float, phase: Point) -> np.ndarray:
    """Schoen's gyroid, sin x cos y + sin y cos z + sin z cos x: its zero sheets fold like cortex."""
    k = np.float32(2 * np.pi / wavelength)
    angles = [k * q + np.float32(p) for q, p in zip(at, phase, strict=True)]
    sines, cosines = [np.sin(a) for a in angles], [np.cos(a) for a in angles]
    return sines[0] * cosines[1] + sines[1] * cosines[2] + sines[2] * cosines[0]


def some(at: Coordinates, index: np.ndarray) -> Coordinates:
    """The points at `index`."""
    return at[0][index], at[1][index], at[2][index]


def mirrored(at: Coordinates) -> Coordinates:
    """Fold left onto right, for structures that come in pairs; x becomes the distance from the midline."""
    return np.abs(at[0]), at[1], at[2]
