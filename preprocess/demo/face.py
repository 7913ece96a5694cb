"""The region below the cranial cavity: orbits, sinuses, petrous bone, jaw, neck."""

import numpy as np

from preprocess.demo.head import Head
from preprocess.demo.shapes import Coordinates, capsule, ellipsoid, gyroid, mirrored, paint, ramp

AIR_HU = -1000.0
FAT_HU = -90.0
MUSCLE_HU = 55.0
VITREOUS_HU = 10.0
SCLERA_HU = 45.0
LENS_HU = 95.0
MUCOSA_HU = 30.0


def paint_face(at: Coordinates, skin: np.ndarray, hu: np.ndarray, head: Head) -> np.ndarray:
    """HU (N,) of points near and below the skull base, painted over `hu`, at `skin` mm below the skin."""
    pair = mirrored(at)
    texture = gyroid(at, 17, head.phases[:3])
    muscle = ramp(skin - head.scalp)
    paint(hu, muscle, MUSCLE_HU + 6 * texture)
    # Fat fills the clefts between muscles, which run along the neck.
    clefts = gyroid((at[0] + 5 * texture, at[1] - 4 * texture, 0.4 * at[2]), 43, head.phases[3:6])
    paint(hu, muscle * ramp(0.14 - np.abs(clefts), 0.2), FAT_HU)
    _paint_bones(hu, at, pair, head, texture)
    _paint_airways(hu, at, pair, head)
    _paint_orbit(hu, pair, head)
    _paint_spine(hu, at, head)
    return hu


def _paint_bones(hu: np.ndarray, at: Coordinates, pair: Coordinates, head: Head, texture: np.ndarray) -> None:
    bone = head.cortical_bone * 0.8 + 120 * texture
    zygoma = capsule(pair, (42, -72, -44), (62, -42, -42), 6, 4)
    arch = capsule(pair, (62, -42, -42), (68, -4, -38), 3, 3)
    condyle = capsule(pair, (51, -2, -44), (47, -14, -100), 6, 6)
    petrous = capsule(pair, (16, 2, -30), (54, 26, -32), 9, 13)
    palate = np.minimum(2.5 - np.abs(at[2] + 70), ellipsoid(at, (0, -62, -70), (26, 30, 30)))
    sphenoid = ellipsoid(at, (0, -24, -28), (20, 15, 11))
    for depth in (zygoma, arch, condyle, petrous, palate, sphenoid):
        paint(hu, ramp(depth), bone)
    mastoid = ellipsoid(pair, (52, 32, -36), (11, 13, 15))
    cells = gyroid(at, 7, head.phases[3:6])
    paint(hu, ramp(mastoid) * ramp(cells - 0.1, 0.4), -700.0)
    paint(hu, ramp(capsule(pair, (46, 14, -33), (84, 12, -33), 3, 4)), AIR_HU)


def _paint_airways(hu: np.ndarray, at: Coordinates, pair: Coordinates, head: Head) -> None:
    ethmoid = np.minimum(
        11 - pair[0] + 0.004 * (at[1] + 60) * (at[1] + 20),
        np.minimum(21 - np.abs(at[1] + 60), 9 - np.abs(at[2] + 32)),
    )
    nasal = ellipsoid(pair, (0, -60, -53), (15, 34, 15))
    maxillary = ellipsoid(pair, (27, -60, -52), (13, 16, 15))
    sphenoid = ellipsoid(at, (4, -26, -28), (12, 9, 7))
    # The frontal sinus is larger on the left: one of the features that reveal a mirrored head.
    frontal = ellipsoid(at, (11, -83, -5), (15, 4, 10))
    for depth in (ethmoid, maxillary, sphenoid, frontal, nasal):
        paint(hu, ramp(depth + 2), head.cortical_bone * 0.5)
        paint(hu, ramp(depth), AIR_HU)
    septa = ramp(0.35 - np.abs(gyroid(at, 15, head.phases[3:6])), 0.3)
    paint(hu, ramp(ethmoid) * septa, 250.0)
    turbinate = ramp(4 - np.abs(pair[0] - 8)) * ramp(gyroid(at, 24, (0, 0, head.phases[5])), 0.4)
    paint(hu, ramp(nasal) * turbinate, MUCOSA_HU)
    paint(hu, ramp(nasal) * ramp(1 - pair[0]), 200.0)
    paint(hu, ramp(capsule(at, (0, -16, -58), (0, -12, -110), 9, 10)), AIR_HU)


def _paint_orbit(hu: np.ndarray, pair: Coordinates, head: Head) -> None:
    cone = capsule(pair, (31, -74, -27), (13, -38, -24), 17, 4)
    paint(hu, ramp(cone + 2.5), head.cortical_bone * 0.6)
    paint(hu, ramp(cone), FAT_HU)
    nerve = capsule(pair, (32, -66, -27), (12, -36, -24), 1.8, 1.8)
    medial = capsule(pair, (20, -74, -27), (13, -40, -24), 2, 1.5)
    lateral = capsule(pair, (44, -70, -27), (17, -40, -24), 2, 1.5)
    for depth in (nerve, medial, lateral):
        paint(hu, ramp(depth), SCLERA_HU)
    globe = ellipsoid(pair, (32, -77, -27), (12, 12.5, 12))
    paint(hu, ramp(globe), SCLERA_HU)
    paint(hu, ramp(globe - 1.5), VITREOUS_HU)
    paint(hu, ramp(ellipsoid(pair, (32, -86, -27), (4.5, 2.2, 4.5))), LENS_HU)


def _paint_spine(hu: np.ndarray, at: Coordinates, head: Head) -> None:
    ring = np.hypot(at[0], (at[1] - 24) * 1.1)
    atlas = 6 - np.hypot(ring - 20, (at[2] + 78) * 0.9)
    dens = capsule(at, (0, 6, -72), (0, 8, -110), 6, 8)
    condyle = capsule(mirrored(at), (16, 14, -62), (20, 18, -72), 6, 7)
    for depth in (atlas, dens, condyle):
        paint(hu, ramp(depth), head.cortical_bone * 0.75)
    canal = 11 - np.hypot(at[0], at[1] - 24)
    below = ramp(-56 - at[2], 4)
    paint(hu, ramp(canal) * below, head.csf)
    paint(hu, ramp(canal - 5) * below, head.white + 5)
