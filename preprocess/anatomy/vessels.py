"""Detection of contrast in the vessels by thin, long, dense structures in the brain.

Enhanced arteries and veins have 150 to 400 HU. Nothing else in a brain has these values over such a length:
clots have up to 95 HU, calcifications of pineal gland and plexus are short, and metal is denser.
"""

import numpy as np
from scipy import ndimage

from preprocess.anatomy.brain import Coarse, block_means

THIN_MM = 2.0
"""Edge of the averaged blocks: noise is at least halved, and a 3 mm vessel stays visible."""
COARSEST_MM = 2.5
"""In longer voxels small vessels vanish, and nothing is reported."""
VESSEL_HU = (105, 400)
"""Above clots and their noise; below bone and metal."""
BONE_HU = 450
AWAY_MM = 8.0
"""Distance from bone: its edge, averaged with brain in a thick slice, has the density of a vessel."""
VAULT = 0.57
"""Depth below the crown, over the diameter of a disc with the area of the largest plane: 100 mm in an adult;
above it, only the skull's bone is near the brain."""
MIN_MM = 24.0
"""Length along the longest axis: a calcified plexus has 10 to 15 mm, the anterior cerebral arteries 40."""
MAX_SECTION_MM2 = 80.0
"""Volume over length: a 4 mm vessel has 13, a tree of vessels about 30, a calcified mass more."""


def enhanced_vessels(voxels: np.ndarray, spacing_mm: tuple[float, float, float], rings: Coarse) -> str | None:
    """Evidence of contrast in a stored head, int16 HU (D, H, W), in one line; None if there is none.

    rings: the volume's rings of bone (preprocess.anatomy.brain).
    """
    if max(spacing_mm) > COARSEST_MM:
        return None
    lengths = vessels(voxels, spacing_mm, rings)
    if not lengths:
        return None
    low, high = VESSEL_HU
    return f"{len(lengths)} thin structures of {low} to {high} HU, up to {max(lengths):.0f} mm long"


def vessels(voxels: np.ndarray, spacing_mm: tuple[float, float, float], rings: Coarse) -> list[float]:
    """Lengths, in mm along an axis, of structures in the brain that look like enhanced vessels."""
    steps = [max(1, round(THIN_MM / spacing)) for spacing in spacing_mm]
    thin = block_means(voxels, steps)
    edges = [step * spacing for step, spacing in zip(steps, spacing_mm, strict=True)]
    reach = [round(AWAY_MM / edge) for edge in edges]
    floor = _vault_floor(thin, edges)
    low = max(0, floor - reach[0])
    inside, thin = _inside(rings, steps, thin.shape)[low:], thin[low:]
    near = ndimage.maximum_filter((thin > BONE_HU) | ~inside, [2 * one + 1 for one in reach])
    bright = ~near & (thin > VESSEL_HU[0]) & (thin < VESSEL_HU[1])
    bright[: floor - low] = False
    labels, _ = ndimage.label(bright, np.ones((3, 3, 3)))
    counts = np.bincount(labels.ravel())[1:] * float(np.prod(edges))
    lengths = []
    for place, mm3 in zip(ndimage.find_objects(labels), counts.tolist(), strict=True):
        length = max((part.stop - part.start) * edge for part, edge in zip(place, edges, strict=True))
        if length >= MIN_MM and mm3 / length <= MAX_SECTION_MM2:
            lengths.append(length)
    return lengths


def _inside(rings: Coarse, steps: list[int], shape: tuple[int, ...]) -> np.ndarray:
    """The inside of the rings of bone, bool of `shape`, in blocks of `steps` voxels."""
    places = [
        np.minimum(((np.arange(n) + 0.5) * step / edge).astype(int), size - 1)
        for n, step, edge, size in zip(shape, steps, rings.edges, rings.within.shape, strict=True)
    ]
    within: np.ndarray = rings.within[np.ix_(*places)]
    return within


def _vault_floor(thin: np.ndarray, edges_mm: list[float]) -> int:
    areas = (thin > -500).sum(axis=(1, 2))
    crown = int(np.flatnonzero(areas > areas.max() / 10)[-1])
    across = 2 * float(np.sqrt(areas.max() * edges_mm[1] * edges_mm[2] / np.pi))
    return max(0, round(crown - VAULT * across / edges_mm[0]))
