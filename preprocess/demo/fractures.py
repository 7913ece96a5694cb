"""Skull fractures visible only in thin slices and bone kernels: a dark line of about 1 mm in the vault."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from preprocess.demo.head import Head
from preprocess.demo.shapes import ramp, smoothstep
from preprocess.demo.stack import Plane

FRACTURE_HU = 0.0
"""HU of the gap: fluid and some fat."""
BONE_HU = (250.0, 350.0)
"""HU range from no breakable bone to full bone in a voxel: diploe starts at 350 HU."""
FLOOR_MM = 2.0
"""Height in the head's axes above which the skull is vault; below are base and face."""
THIN_MM = 2.5
"""Thicker slices of a soft kernel do not show it: a gap of 0.5 to 1.5 mm is less than a third of such a slice
and is hidden by smoothing and by the texture of the diploe."""


@dataclass(frozen=True)
class Fracture:
    """A linear fracture: the intersection of a plane with the vault, within an arc. Lengths in mm."""

    normal: tuple[float, float, float]
    """Normal of the plane, a unit vector in the head's axes."""
    offset: float
    """Distance of the plane from the head's centre, along the normal."""
    centre: tuple[float, float, float]
    """Unit vector in the head's axes, from the centre to the middle of the line."""
    reach_deg: float
    """Half of the arc."""
    width: float
    phase: float
    """Phase of the wobble that makes the line uneven."""


def draw_fracture(rng: np.random.Generator) -> Fracture:
    """A fracture in the steep part of the vault, on any side, within 20 degrees of the axial plane."""
    azimuth, towards = rng.uniform(0, 2 * np.pi, 2)
    tilt = np.radians(rng.uniform(0, 20))
    lean = np.sin(tilt)
    return Fracture(
        normal=(float(lean * np.cos(towards)), float(lean * np.sin(towards)), float(np.cos(tilt))),
        offset=float(rng.uniform(8, 35)),
        centre=(float(np.cos(azimuth)), float(np.sin(azimuth)), 0.0),
        reach_deg=float(rng.uniform(50, 80)),
        width=float(rng.uniform(0.9, 1.4)),
        phase=float(rng.uniform(0, 2 * np.pi)),
    )


def shows(sharp: bool, thickness: float) -> bool:
    """Whether a series of this kernel and slice thickness (mm) shows a fracture."""
    return sharp or thickness < THIN_MM


def paint_fracture(hu: np.ndarray, plane: Plane, head: Head, fracture: Fracture) -> None:
    """Paint a fracture over a slice's `hu` (rows, columns) in place.

    A voxel gets its share of the gap: a slab of the fracture's width, convolved with a Gaussian of the
    variance of a voxel's box along the slab's normal.
    """
    points = plane.points().reshape(-1, 3)
    at = head.local(points)
    x, y, z = at
    wobble = 1.2 * np.sin(0.11 * x + fracture.phase) * np.sin(0.13 * y - fracture.phase)
    distance = x * fracture.normal[0] + y * fracture.normal[1] + z * fracture.normal[2]
    distance = distance - np.float32(fracture.offset) + wobble
    spread = _spread(plane, head, fracture)
    half = fracture.width / 2
    share = ndtr((distance + half) / spread) - ndtr((distance - half) / spread)
    radius = np.hypot(x, y) + 1e-3
    cosine = (x * fracture.centre[0] + y * fracture.centre[1]) / radius
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    within = ramp(fracture.reach_deg - angle, 4) * ramp(z - FLOOR_MM, 4)
    flat = hu.reshape(-1)
    share = share * within * smoothstep(flat, *BONE_HU)
    flat += (share * (FRACTURE_HU - flat)).astype(hu.dtype)


def _spread(plane: Plane, head: Head, fracture: Fracture) -> float:
    """Standard deviation of a voxel's box along the fracture's normal, mm of the head's own axes."""
    through = np.cross(plane.row, plane.column) * plane.thickness
    edges = np.array([np.zeros(3), plane.row * plane.spacing, plane.column * plane.spacing, through])
    steps = np.stack(head.local(edges), axis=1)
    along = (steps[1:] - steps[0]) @ np.array(fracture.normal, np.float32)
    return float(np.sqrt((along**2).sum() / 12) + 1e-3)
