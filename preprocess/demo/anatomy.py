"""A synthetic head CT as a function of continuous patient coordinates.

Any slice plane is a sampling of `head_hu`, which makes it the oracle for geometry tests. The head's axes are
x towards the left, y towards the back, z towards the vertex, with the centre near the third ventricle; its
nominal size is an adult's.
"""

import numpy as np

from preprocess.demo import brain, face
from preprocess.demo.head import Head
from preprocess.demo.lesions import paint_lesions
from preprocess.demo.shapes import (
    Coordinates,
    capsule,
    ellipsoid,
    gyroid,
    mirrored,
    paint,
    ramp,
    smoothstep,
    some,
)
from preprocess.demo.vessels import paint_vessels

AIR_HU = -1000.0
FAT_HU = -90.0
SKIN_HU = 35.0
MUSCLE_HU = 55.0
REST_HU = 120.0

HALF_WIDTH, HALF_LENGTH, HALF_HEIGHT = 78.0, 98.0, 92.0
NECK_HALF_HEIGHT = 150.0
BASE_THICKNESS = 4.5

POINTS_AT_ONCE = 2**16
"""Points painted together: many for NumPy's cost per call, few enough for a core's cache."""


def head_hu(points_lps: np.ndarray, head: Head) -> np.ndarray:
    """HU (float32, shape (...)) at patient LPS points in mm (shape (..., 3))."""
    points = np.asarray(points_lps, dtype=np.float64).reshape(-1, 3)
    hu = np.full(len(points), AIR_HU, np.float32)
    for start in range(0, len(points), POINTS_AT_ONCE):
        part = slice(start, start + POINTS_AT_ONCE)
        _paint_head(hu[part], points[part], head)
    return hu.reshape(np.shape(points_lps)[:-1])


def _paint_head(hu: np.ndarray, points: np.ndarray, head: Head) -> None:
    """Paint the head over air in place; points: patient LPS mm (N, 3)."""
    if head.head_rest:
        _paint_head_rest(hu, points - np.asarray(head.origin))
    at = head.local(points)
    skin = skin_depth(at)
    inside = np.flatnonzero(skin > -1)
    hu[inside] = _tissue(some(at, inside), skin[inside], hu[inside], head)


def _tissue(at: Coordinates, skin: np.ndarray, hu: np.ndarray, head: Head) -> np.ndarray:
    paint(hu, ramp(skin), SKIN_HU)
    paint(hu, ramp(skin - 2), FAT_HU)
    floor = floor_height(at)
    above_floor = at[2] - floor
    low = np.flatnonzero(above_floor < 12)
    if low.size:
        hu[low] = face.paint_face(some(at, low), skin[low], hu[low], head)
    shell, thickness, cavity = _layers(at, skin, above_floor, head)
    _paint_skull(hu, at, shell, thickness, above_floor, head)
    within = np.flatnonzero(cavity > -1)
    if within.size:
        at, depth, tissue = some(at, within), cavity[within], hu[within]
        matter, fluid = brain.brain_hu(at, depth, head)
        paint_lesions(matter, at, depth, fluid, head.lesions)
        if head.enhanced_hu is not None:
            paint_vessels(matter, at, head.enhanced_hu)
        paint(tissue, ramp(depth), matter)
        hu[within] = tissue
    return hu


def _layers(
    at: Coordinates, skin: np.ndarray, above_floor: np.ndarray, head: Head
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth in the skull, its thickness, and depth in its cavity, mm."""
    thickness = skull_thickness(at, head)
    shell = skin - head.scalp
    return shell, thickness, np.minimum(shell - thickness, above_floor * 1.2)


def cavity_depth(at: Coordinates, head: Head) -> np.ndarray:
    """Depth in mm inside the skull at points of the head's own axes, negative outside: (N,)."""
    return cavity_depth_under(at, skin_depth(at), at[2] - floor_height(at), head)


def cavity_depth_under(at: Coordinates, skin: np.ndarray, above_floor: np.ndarray, head: Head) -> np.ndarray:
    """`cavity_depth` at points `skin` mm under the skin and `above_floor` mm above the skull base."""
    return _layers(at, skin, above_floor, head)[2]


def skin_depth(at: Coordinates) -> np.ndarray:
    """Depth under the skin, mm; below 0 outside the head."""
    x, y, z = at
    neck = smoothstep(z, -28, -85)
    half_width = HALF_WIDTH * (1 + 0.07 * np.clip(y, -90, 90) / HALF_LENGTH) * (1 - 0.2 * neck)
    half_length = HALF_LENGTH * np.where(y > 0, 1 - 0.3 * neck, 1 - 0.06 * neck)
    half_height = np.where(z > 0, np.float32(HALF_HEIGHT), np.float32(NECK_HALF_HEIGHT))
    u, v, w = x / half_width, y / half_length, z / half_height
    radius = np.sqrt(u * u + v * v + w * w) + np.float32(1e-6)
    slope = np.sqrt((u / half_width) ** 2 + (v / half_length) ** 2 + (w / half_height) ** 2) / radius
    # First-order distance to the surface; near the centre, where it fails, it is merely large.
    depth = np.minimum((1 - radius) / (slope + np.float32(1e-6)), 90)
    low = np.flatnonzero((z < 12) & (depth < 6) & (depth > -40))
    if low.size:
        part = some(at, low)
        nose = capsule(part, (0, -92, -24), (0, -99, -52), 5, 11)
        ear = ellipsoid(mirrored(part), (79, 14, -26), (6, 13, 22))
        depth[low] = np.maximum(depth[low], np.maximum(nose, ear))
    return depth


def floor_height(at: Coordinates) -> np.ndarray:
    """Height z (mm) of the skull base's inner surface under each point.

    Three fossae step down from front to back; the orbits' roofs, the sphenoid's wings and the petrous
    ridges rise between them.
    """
    x, y, _ = at
    side = np.abs(x)
    lateral = smoothstep(side, 8, 30)
    wing = -16 - 0.35 * side
    ridge = 2 + 0.5 * side
    anterior = -19 + 10 * np.exp(-(((side - 32) / 17) ** 2) - ((y + 62) / 24) ** 2)
    middle = -17 + lateral * (0.012 * (y + 6) ** 2 + 0.012 * (side - 38) ** 2 - 23)
    posterior = -62 + 0.007 * x * x + 0.006 * (y - 40) ** 2
    height = anterior + smoothstep(y - wing, -6, 6) * (middle - anterior)
    height = height + smoothstep(y - ridge, -4, 10) * (posterior - height)
    wings = 7 * np.exp(-(((y - wing) / 5) ** 2))
    return height + lateral * (wings + 13 * np.exp(-(((y - ridge) / 7) ** 2)))


def skull_thickness(at: Coordinates, head: Head) -> np.ndarray:
    """Thickness of the vault at each point, mm."""
    a, b, c = head.phases[6:9]
    x, y, z = at
    relief = np.sin(x * 0.045 + a) + np.sin(y * 0.04 + b) + np.sin(z * 0.05 + c) + 0.008 * (y - x)
    return head.skull + head.skull_variation * relief


def _paint_skull(
    hu: np.ndarray, at: Coordinates, shell: np.ndarray, thickness: np.ndarray, above: np.ndarray, head: Head
) -> None:
    """The vault with its two tables and diploe, and the base's plate with the foramen magnum."""
    vault = ramp(shell) * ramp(thickness - shell) * ramp(above + BASE_THICKNESS)
    plate = ramp(shell) * ramp(above + BASE_THICKNESS) * ramp(-above)
    foramen = ramp(14 - np.hypot(at[0], at[1] - 24), 3)
    plate *= 1 - foramen * (at[2] < -30)
    grain = 90 * gyroid(at, 9.0, head.phases[:3])
    bone = np.maximum(vault, plate)
    paint(hu, bone, head.cortical_bone + grain)
    table = 0.3 * thickness
    middle = np.minimum(shell - table, thickness - table - shell)
    paint(hu, vault * ramp(middle, 2) * (1 - plate), head.diploe + grain)


def _paint_head_rest(hu: np.ndarray, points: np.ndarray) -> None:
    """The head holder: a curved shell behind the head, fixed in the scanner while the head rotates in it."""
    x, y = points[:, 0].astype(np.float32), points[:, 1].astype(np.float32)
    shell = 2 - np.abs(np.hypot(x, y + 15) - 124)
    paint(hu, ramp(shell) * ramp(y - 10, 4), REST_HU)
