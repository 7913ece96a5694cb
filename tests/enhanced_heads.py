"""Generated heads with 2 mm voxels, with enhanced vessels and with structures similar to them."""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from preprocess.demo.anatomy import head_hu
from preprocess.demo.head import draw_anatomy
from preprocess.demo.lesions import Bleed, draw_lesion

STEP = 2.0
SPACING = (STEP, STEP, STEP)
AXES = np.arange(-40, 105, STEP), np.arange(-108, 109, STEP), np.arange(-94, 95, STEP)
"""Heights, from back to front, from left to right, of the nominal head."""


def scanned(number: int, enhanced: bool) -> np.ndarray:
    """int16 HU (D, H, W) of patient `number`, rotated and shifted at random, without other randomness.

    Two of three bleed once or twice; all have calcified plexus, and up to three calcifications of 2 to 8 mm
    radius; one of five has a clip of metal. Slices are of 2 mm, of 6 mm, or of 6 mm with a sharp kernel, in
    turns.
    """
    rng = np.random.default_rng([7, number])
    lesions = tuple(
        draw_lesion(np.random.default_rng([8, number, k]), list(Bleed)[(number + k) % len(Bleed)])
        for k in range(number % 3)
    )
    rotation, origin = (tuple(rng.normal(0, sd, 3).tolist()) for sd in (4, 3))
    blood = float(rng.uniform(150, 300)) if enhanced else None
    head = replace(
        draw_anatomy(41, number),
        rotation=rotation,
        origin=origin,
        lesions=lesions,
        calcified_plexus=True,
        enhanced_hu=blood,
    )
    z, y, x = np.meshgrid(*AXES, indexing="ij")
    hu = head_hu(np.stack([-x, -y, z], axis=-1), head)
    spots = [(rng.uniform(2, 8), rng.uniform(150, 400)) for _ in range(rng.integers(4))]
    for radius, value in [*spots, *([(4.0, 3000.0)] if number % 5 == 0 else [])]:
        centre = rng.uniform(-35, 35, 3) + np.array([30, 0, 0])
        hu[np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) < radius] = value
    noise = 5.0
    if number % 3:
        hu, noise = ndimage.uniform_filter1d(hu, 3, axis=0), 4.0
    if number % 3 == 2:
        hu, noise = hu + 0.8 * (hu - ndimage.gaussian_filter(hu, [0, 0.8, 0.8])), 14.0
    return np.rint(hu + rng.normal(0, noise, hu.shape)).astype(np.int16)
