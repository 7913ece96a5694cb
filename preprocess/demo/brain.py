"""The inside of the skull: folded cortex, white matter, deep nuclei, ventricles, cisterns, falx."""

import numpy as np

from preprocess.demo.head import Head
from preprocess.demo.lesions import Fluid
from preprocess.demo.shapes import Coordinates, capsule, ellipsoid, gyroid, mirrored, paint, ramp, smoothstep

FALX_HU = 48.0
SINUS_HU = 52.0
CALCIFICATION_HU = 180.0
CORTEX_MM = 3.5
SULCUS_REACH_MM = 20.0

_VENTRICLE_RODS = (
    ((7, -34, 12), (12, -20, 20), 4.5, 5.5),
    ((12, -20, 20), (14, 12, 25), 5.0, 5.0),
    ((14, 12, 25), (25, 34, 11), 5.0, 6.5),
    ((25, 34, 11), (21, 58, 4), 5.5, 2.0),
    ((25, 34, 11), (32, 10, -14), 4.5, 2.0),
    ((32, 10, -14), (27, -6, -19), 2.0, 1.5),
)
"""Frontal horn, body, atrium, occipital horn and temporal horn of the right ventricle, mirrored to the left:
start, end, radii in mm."""

_NUCLEI = (
    ((14, -20, 13), (6, 10, 10)),
    ((25, -4, 5), (7, 17, 11)),
    ((10, 13, 8), (8, 14, 9)),
)
"""Caudate head, lentiform nucleus, thalamus: centre and radii in mm."""


def brain_hu(at: Coordinates, depth: np.ndarray, head: Head) -> tuple[np.ndarray, Fluid]:
    """HU (N,) without lesions at points `depth` mm inside the skull, and the shares of CSF."""
    wobble = _wobble(at, head)
    folded = (at[0] + wobble[0], at[1] + wobble[1], at[2] + wobble[2])
    cerebellum = _cerebellum_depth(at)
    surface = depth - head.atrophy * (1 + 0.15 * wobble[1])
    sulcus, from_sulcus = _sulci(folded, surface, head)
    sulcus *= 1 - ramp(cerebellum, 3)
    cortex = ramp(CORTEX_MM - np.minimum(from_sulcus, surface), 2) * smoothstep(surface, 24, 16)
    matter = head.white + (head.grey - head.white) * cortex + 0.3 * wobble[2]
    _paint_nuclei(matter, at, head)
    paint(matter, ramp(cerebellum, 2), head.grey - 2.5 + 2.5 * gyroid(folded, 8, head.phases[3:6]))
    paint(matter, ramp(capsule(at, (0, 10, -8), (0, 19, -80), 14, 9)), head.white + 3)
    fissure, falx = _midline(at, wobble[0], cerebellum)
    cisterns = np.maximum(_cisterns(at, wobble, head), fissure)
    subarachnoid = np.maximum(np.maximum(sulcus, cisterns), 1 - ramp(surface))
    ventricular = _ventricles(at, head)
    paint(matter, subarachnoid, head.csf)
    paint(matter, ventricular, head.csf)
    paint(matter, falx, FALX_HU)
    paint(matter, ramp(1 - np.abs(cerebellum), 1) * 0.6 * (at[1] > 15), FALX_HU)
    _paint_sinus(matter, at, depth, SINUS_HU if head.enhanced_hu is None else head.enhanced_hu)
    _paint_calcifications(matter, at, head)
    return matter, Fluid(np.maximum(subarachnoid - falx, 0), ventricular)


def _wobble(at: Coordinates, head: Head) -> Coordinates:
    """Displacements of a few mm that make the folds irregular."""
    x, y, z = at
    p = head.phases
    return (
        2.5 * (np.sin(y * 0.09 + p[0]) + np.sin(z * 0.13 + p[1])),
        2.5 * (np.sin(z * 0.08 + p[2]) + np.sin(x * 0.12 + p[3])),
        2.5 * (np.sin(x * 0.10 + p[4]) + np.sin(y * 0.14 + p[5])),
    )


def _sulci(folded: Coordinates, surface: np.ndarray, head: Head) -> tuple[np.ndarray, np.ndarray]:
    """Share of sulcal CSF, and the distance from the nearest sulcus in mm."""
    wave = np.abs(gyroid(folded, head.fold_wavelength, head.phases[3:6]))
    # The gyroid's gradient is about 1.3 wave numbers near its zero sheets.
    distance = wave * np.float32(head.fold_wavelength / (2 * np.pi * 1.3))
    reach = np.clip(1 - surface / SULCUS_REACH_MM, 0, 1)
    half_width = (0.35 + 0.45 * head.atrophy) * reach
    return ramp(half_width - distance, 1.5) * (reach > 0) * np.minimum(1, 4 * reach), distance


def _cerebellum_depth(at: Coordinates) -> np.ndarray:
    """Depth below the tentorium in mm, positive in the posterior fossa."""
    x, y, z = at
    roof = 6 - 0.012 * x * x - 0.25 * np.abs(y - 38)
    return np.minimum(roof - z, (y - 20 - 0.45 * np.abs(x)) * 0.8)


def _paint_nuclei(matter: np.ndarray, at: Coordinates, head: Head) -> None:
    pair = mirrored(at)
    for centre, radii in _NUCLEI:
        paint(matter, ramp(ellipsoid(pair, centre, radii), 2), head.grey)


def _midline(at: Coordinates, wobble: np.ndarray, cerebellum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the interhemispheric fissure's CSF and of the falx in it."""
    x, y, z = at
    off = np.abs(x + 0.15 * wobble)
    above_callosum = (np.hypot(y * 0.75, z - 2) - 34) * 0.8
    cerebral = np.minimum(above_callosum, -cerebellum)
    open_below = np.minimum(cerebral, z + 12)
    fissure = ramp(1.4 - off) * ramp(open_below, 3)
    falx = ramp(0.7 - off, 1) * ramp(open_below - 8, 6) * 0.8
    return fissure, falx


def _ventricles(at: Coordinates, head: Head) -> np.ndarray:
    pair = mirrored(at)
    grow = head.ventricles * np.where(at[0] > 0, np.float32(head.left_ventricle), np.float32(1))
    depth = np.full_like(at[0], -50)
    for start, end, radius, end_radius in _VENTRICLE_RODS:
        rod = capsule(pair, start, end, radius, end_radius)
        mean = 0.5 * (radius + end_radius)
        np.maximum(depth, rod + mean * (grow - 1), out=depth)
    third = np.minimum(1.3 + 0.9 * head.ventricles - np.abs(at[0]), ellipsoid(at, (0, 3, 3), (12, 17, 11)))
    fourth = ellipsoid(at, (0, 32, -32), (8, 5, 9))
    # The septum separates the two lateral ventricles.
    lateral = ramp(depth) * ramp(np.abs(at[0]) - 1.2)
    return np.maximum(lateral, np.maximum(ramp(third), ramp(fourth)))


def _cisterns(at: Coordinates, wobble: Coordinates, head: Head) -> np.ndarray:
    x, y, z = at
    side = np.abs(x)
    width = 0.5 + 0.4 * head.atrophy
    suprasellar = ellipsoid(at, (0, -11, -14), (13, 9, 6)) + 0.5 * wobble[0]
    stem = np.hypot(x, y - 12 + 0.13 * (z + 8)) + 0.4 * wobble[1]
    ambient = np.minimum(width + 0.3 - np.abs(stem - 15), np.minimum(-2 - z, 34 - y))
    # The Sylvian fissure climbs backwards from the temple and opens inwards over the insula.
    climb = 0.75 * np.abs(z - 3 - 0.8 * y + 0.45 * (side - 50) + 2 * wobble[0])
    insula_side = 40 - 0.01 * (y + 2) ** 2
    fissure = np.minimum(width - climb, np.minimum(side - insula_side, 20 - np.abs(z - 4)))
    insula = np.minimum(
        width - 0.3 - np.abs(side - insula_side + 0.4 * wobble[1]), 22 - np.hypot(y + 2, 1.4 * (z - 4))
    )
    return ramp(np.maximum(np.maximum(suprasellar, ambient), np.maximum(fissure, insula)))


def _paint_sinus(matter: np.ndarray, at: Coordinates, depth: np.ndarray, hu: float) -> None:
    """The superior sagittal sinus: a strip of venous blood under the midline of the vault."""
    strip = np.minimum(5 - np.abs(at[0]) - 0.6 * depth, at[2] + 10)
    paint(matter, ramp(strip), hu)


def _paint_calcifications(matter: np.ndarray, at: Coordinates, head: Head) -> None:
    paint(matter, ramp(ellipsoid(at, (0, 27, 6), (2, 3, 2.5))), CALCIFICATION_HU)
    if head.calcified_plexus:
        paint(matter, ramp(ellipsoid(mirrored(at), (24, 35, 10), (2.2, 5, 2.2))), CALCIFICATION_HU)
