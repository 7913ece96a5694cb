"""Labels of a synthetic head besides the kinds of its bleeds: volumes, a grade, time to death.

Volumes are integrals of the shares that the anatomy is painted with. The time to death has an exponential
hazard that grows with the volumes of blood and of the ventricles; censoring at the last follow-up does not
depend on them.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from preprocess.demo.anatomy import cavity_depth_under, floor_height, skin_depth
from preprocess.demo.brain import brain_hu
from preprocess.demo.head import Head
from preprocess.demo.lesions import Bleed, blood_share
from preprocess.demo.shapes import Coordinates, ramp, some
from preprocess.demo.streams import Stream, generator

STEP_MM = 4.0
"""Step of the grid in the head's axes; volumes differ by a few percent from those at 1 mm."""
REACH_MM = (80.0, 100.0, 95.0)
GRADES_ML = (0.1, 40.0, 100.0)
"""Least volumes of blood of the grades 1, 2 and 3."""
BASE_DAYS = 400.0
"""Mean survival with `USUAL_VENTRICLES_ML` of ventricles and without blood."""
USUAL_VENTRICLES_ML = 31.0
BLOOD_EFFECT, VENTRICLES_EFFECT = 0.01, 0.05
"""Increase of the log hazard per ml."""
FOLLOWED_DAYS = (30.0, 700.0)
"""Bounds of the last follow-up, uniformly distributed."""

KINDS = {
    "ventricle_ml": "regression",
    "haematoma_ml": "regression",
    "atrophy_mm": "regression",
    "haematoma_grade": "ordinal",
    "largest_bleed": "multiclass",
    "death": {"survival": "death_days"},
}
"""In the form of `fmct labels --kinds`."""
COLUMNS = (*KINDS, "death_days")


@dataclass(frozen=True)
class Volumes:
    """In ml."""

    ventricles: float
    blood: dict[Bleed, float]
    """Volumes of each kind of bleed; where two overlap, both count."""


class _Grid(NamedTuple):
    """The points of the integrals under the skin, which are the same for every head."""

    at: Coordinates
    skin: np.ndarray
    """Depth under the skin, mm."""
    above_floor: np.ndarray
    """Height above the skull base, mm."""


@cache
def _grid() -> _Grid:
    ends = [np.arange(-reach, reach + STEP_MM / 2, STEP_MM, dtype=np.float32) for reach in REACH_MM]
    x, y, z = (axis.ravel() for axis in np.meshgrid(*ends, indexing="ij"))
    skin = skin_depth((x, y, z))
    under = np.flatnonzero(skin > 0)
    at = some((x, y, z), under)
    return _Grid(at, skin[under], at[2] - floor_height(at))


def volumes(head: Head) -> Volumes:
    """Volumes of the ventricles, including blood in them, and of the bleeds."""
    grid = _grid()
    depth = cavity_depth_under(*grid, head)
    inside = np.flatnonzero(depth > -1)
    at, depth = some(grid.at, inside), depth[inside]
    _, fluid = brain_hu(at, depth, head)
    ml = STEP_MM**3 * float(np.prod(head.scale)) / 1000
    within = ramp(depth)
    blood: dict[Bleed, float] = {}
    for lesion in head.lesions:
        share = float((within * blood_share(at, depth, fluid, lesion)).sum())
        blood[lesion.kind] = blood.get(lesion.kind, 0.0) + share * ml
    return Volumes(float((within * fluid.ventricular).sum()) * ml, blood)


def measures(seed: int, index: int, head: Head) -> dict[str, float | int]:
    """The columns `COLUMNS` of study `index`: volumes to 0.01 ml, times in whole days."""
    measured = volumes(head)
    blood = sum(measured.blood.values())
    largest = max(measured.blood, key=lambda kind: measured.blood[kind], default=None)
    days, died = survival(seed, index, blood, measured.ventricles)
    return {
        "ventricle_ml": round(measured.ventricles, 2),
        "haematoma_ml": round(blood, 2),
        "atrophy_mm": round(head.atrophy, 3),
        "haematoma_grade": int(np.digitize(blood, GRADES_ML)),
        "largest_bleed": 0 if largest is None else 1 + list(Bleed).index(largest),
        "death": int(died),
        "death_days": days,
    }


def survival(seed: int, index: int, blood: float, ventricles: float) -> tuple[int, bool]:
    """Whole days, rounded up, to death or the last follow-up, and whether it was death; volumes in ml."""
    rng = generator(seed, Stream.SURVIVAL, index)
    lifetime, followed = float(rng.exponential()), float(rng.uniform(*FOLLOWED_DAYS))
    risk = BLOOD_EFFECT * blood + VENTRICLES_EFFECT * (ventricles - USUAL_VENTRICLES_ML)
    days = lifetime * BASE_DAYS * float(np.exp(-risk))
    return int(np.ceil(min(days, followed))), days <= followed
