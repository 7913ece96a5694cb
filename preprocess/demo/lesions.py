"""Bleeds of several kinds, drawn at random and painted into the brain."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from preprocess.demo.shapes import Coordinates, paint, ramp, smoothstep

EDEMA_HU = 19.0
"""Vasogenic oedema around a haematoma, darker than white matter."""


class Bleed(StrEnum):
    """The kinds of intracranial haemorrhage; the value is the label's column."""

    INTRAPARENCHYMAL = "intraparenchymal"
    SUBDURAL = "subdural"
    EPIDURAL = "epidural"
    SUBARACHNOID = "subarachnoid"
    INTRAVENTRICULAR = "intraventricular"


@dataclass(frozen=True)
class Lesion:
    """One bleed in the head's axes (mm); the meaning of the lengths depends on the kind."""

    kind: Bleed
    hu: float
    """Acute blood: 50 to 80 HU."""
    centre: tuple[float, float, float]
    """Centre of the bleed; for an extra-axial one, a point in its direction from the head's centre."""
    size: tuple[float, float, float]
    """Intraparenchymal: radii. Extra-axial: thickness, angular reach in degrees, 0. Else: spread, 0, 0."""
    phase: float


@dataclass(frozen=True)
class Fluid:
    """Shares, in [0, 1], of the spaces that blood can fill."""

    subarachnoid: np.ndarray
    ventricular: np.ndarray


def draw_lesion(rng: np.random.Generator, kind: Bleed) -> Lesion:
    """A bleed of `kind` on a random side."""
    side = float(rng.choice([-1.0, 1.0]))
    hu = float(rng.uniform(58, 78))
    phase = float(rng.uniform(0, 2 * np.pi))
    if kind is Bleed.INTRAPARENCHYMAL:
        centre = (side * rng.uniform(22, 40), rng.uniform(-38, 42), rng.uniform(6, 42))
        radii = rng.uniform(11, 21, 3)
        size = (float(radii[0]), float(radii[1]), float(radii[2]))
    elif kind is Bleed.SUBDURAL:
        centre = (side * 60.0, rng.uniform(-25, 25), rng.uniform(20, 45))
        size = (rng.uniform(9, 15), rng.uniform(65, 85), 0.0)
    elif kind is Bleed.EPIDURAL:
        centre = (side * 60.0, rng.uniform(-40, 40), rng.uniform(5, 35))
        size = (rng.uniform(18, 28), rng.uniform(30, 38), 0.0)
    elif kind is Bleed.SUBARACHNOID:
        centre = (side * rng.uniform(0, 20), rng.uniform(-20, 5), rng.uniform(-15, 10))
        size = (rng.uniform(65, 90), 0.0, 0.0)
    else:
        centre = (side * 15.0, 30.0, 15.0)
        size = (rng.uniform(25, 60), 0.0, 0.0)
    x, y, z = centre
    a, b, c = size
    return Lesion(kind, hu, (float(x), float(y), float(z)), (float(a), float(b), float(c)), phase)


def paint_lesions(
    hu: np.ndarray, at: Coordinates, depth: np.ndarray, fluid: Fluid, lesions: tuple[Lesion, ...]
) -> None:
    """Paint bleeds over the brain's `hu` (N,) in place.

    depth: mm inside the skull; fluid: the shares of CSF.
    """
    for lesion in lesions:
        if lesion.kind is Bleed.INTRAPARENCHYMAL:
            paint(hu, ramp(depth - 2) * ramp(_inside_haematoma(at, lesion) + 4, 5) * 0.9, EDEMA_HU)
        paint(hu, blood_share(at, depth, fluid, lesion), lesion.hu)


def blood_share(at: Coordinates, depth: np.ndarray, fluid: Fluid, lesion: Lesion) -> np.ndarray:
    """Share of a bleed's blood in [0, 1], (N,), without the oedema about it; see `paint_lesions`."""
    if lesion.kind is Bleed.INTRAPARENCHYMAL:
        return ramp(depth - 2) * ramp(_inside_haematoma(at, lesion), 2)
    if lesion.kind in (Bleed.SUBDURAL, Bleed.EPIDURAL):
        return _extra_axial_share(at, depth, lesion)
    if lesion.kind is Bleed.SUBARACHNOID:
        distance = np.sqrt(sum((q - c) ** 2 for q, c in zip(at, lesion.centre, strict=True)))
        return fluid.subarachnoid * smoothstep(distance, lesion.size[0], 0.5 * lesion.size[0])
    # Blood sinks: with a supine patient it fills the ventricles up to a level.
    return fluid.ventricular * ramp(at[1] - (40 - lesion.size[0]), 3)


def _inside_haematoma(at: Coordinates, lesion: Lesion) -> np.ndarray:
    """Depth in mm inside a lobed ellipsoid."""
    offsets = [q - c for q, c in zip(at, lesion.centre, strict=True)]
    across, along, up = offsets
    lobes = 1 + 0.12 * np.sin(0.16 * across + lesion.phase) * np.sin(0.19 * along + 0.17 * up)
    squares = [(o / r) ** 2 for o, r in zip(offsets, lesion.size, strict=True)]
    return (lobes - np.sqrt(squares[0] + squares[1] + squares[2])) * min(lesion.size)


def _extra_axial_share(at: Coordinates, depth: np.ndarray, lesion: Lesion) -> np.ndarray:
    """Blood between skull and brain: its thickness falls off with the angle from its centre."""
    centre = np.asarray(lesion.centre, np.float32) / np.float32(np.linalg.norm(lesion.centre))
    radius = np.sqrt(at[0] ** 2 + at[1] ** 2 + at[2] ** 2) + np.float32(1e-3)
    cosine = (at[0] * centre[0] + at[1] * centre[1] + at[2] * centre[2]) / radius
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    thickness = lesion.size[0] * (1 - (angle / lesion.size[1]) ** 2)
    # Near the centre angles are not meaningful: blood is under the vault, not on the sella.
    share = ramp(thickness - depth, 1.5) * ramp(radius - 35, 5)
    if lesion.kind is Bleed.SUBDURAL:
        share *= ramp(at[0] * np.sign(centre[0]) - 1.5)
    return share
