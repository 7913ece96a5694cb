"""Whether a volume holds a brain in its skull: a ring of bone around plausible amounts of soft tissue.

Each slice is judged in blocks of about 4 mm. From the middle of a slice, bone must be present in most
directions (a skull may lack a flap); everything nearer than that bone is inside.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

BLOCK_MM = 4.0
DIRECTIONS = 36
"""Sectors of 10 degrees: a block at the skull's radius is 3 to 4 degrees wide."""
BONE_HU = 200
"""Threshold for a block's densest voxel: partial volumes of a thin vault reach it; enhanced vessels too, but
they form no ring."""
MIN_RADIUS_MM = 25.0
"""Bone nearer to the middle is not a vault but a vertebra or a femur. A newborn's skull has 45 mm radius."""
MIN_RING = 0.6
"""Share of the directions with bone: a hemicraniectomy takes a third of the widest slice's."""
SOFT_HU = (-10, 90)
"""CSF to acute blood."""
FAT_HU = (-140, -30)
MIN_ML, MAX_ML = 200.0, 2300.0
"""Soft tissue in the ring: the generator's heads have 950 to 2150 ml, including scalp in slices with skull
base; newborns have a third of that, and scans may be incomplete."""
MAX_FAT = 0.12
"""Share of fat in the ring's soft tissue and fat: 0.01 to 0.04 in heads (orbits); a pelvis is a third fat."""
SPREAD_HU = (9.0, 70.0)
"""Range from the 5th to the 95th percentile of the enclosed tissue, smoothed: white matter and ventricles
give 18 to 41 in heads; a uniform filling with noise of 10 HU gives 6.5."""


class Inside(NamedTuple):
    """Contents of a volume's rings of bone."""

    ml: float
    """Soft tissue."""
    fat: float
    """Share of fat in soft tissue and fat."""
    spread_hu: float
    """Range from the 5th to the 95th percentile of the blocks of soft tissue, smoothed."""
    slices: int
    """Number of slices with a ring."""


class Coarse(NamedTuple):
    """A volume in blocks of about `BLOCK_MM`; arrays (D, H, W) of blocks."""

    bone: np.ndarray
    """bool: the densest voxel is bone."""
    mean: np.ndarray
    """float32 HU."""
    within: np.ndarray
    """bool: inside the slice's ring of bone."""
    edges: tuple[int, ...]
    """Block edges in voxels."""
    size: tuple[float, ...]
    """Block edges in mm."""


def brain_objection(volume: Coarse) -> str | None:
    """Why a volume holds no brain in a skull, in one line; None if it does."""
    brain = inside(volume)
    if not brain.slices:
        return "no slice has a ring of bone like a skull"
    if not MIN_ML <= brain.ml <= MAX_ML:
        return f"bone encloses {brain.ml:.0f} ml of soft tissue, a skull {MIN_ML:g} to {MAX_ML:g}"
    if brain.fat > MAX_FAT:
        return f"{brain.fat:.0%} of the tissue enclosed by bone is fat"
    if not SPREAD_HU[0] <= brain.spread_hu <= SPREAD_HU[1]:
        limits = f"{SPREAD_HU[0]:g} to {SPREAD_HU[1]:g}"
        return f"tissue enclosed by bone has a range of {brain.spread_hu:.1f} HU, a brain {limits}"
    return None


def coarse(voxels: np.ndarray, spacing_mm: tuple[float, float, float]) -> Coarse:
    """Find the rings of bone of a volume, int16 HU (D, H, W) as stored."""
    edges = [max(1, round(BLOCK_MM / spacing)) for spacing in spacing_mm]
    parts = _blocks(voxels, edges)
    size = [edge * spacing for edge, spacing in zip(edges, spacing_mm, strict=True)]
    # Axis by axis, outermost first: NumPy takes six times as long for all at once.
    bone = parts.max(axis=1).max(axis=2).max(axis=3) > BONE_HU
    mean = block_means(voxels, edges)
    polar = _Polar.about_middles(bone.shape[1:], size)
    within = np.stack([_within(plane, solid, polar) for plane, solid in zip(bone, mean > -500, strict=True)])
    return Coarse(bone, mean, within, tuple(edges), tuple(size))


def inside(volume: Coarse) -> Inside:
    """Measure the contents of the rings; see `Inside`."""
    bone, mean, within, _, size = volume
    soft = within & ~bone & (mean > SOFT_HU[0]) & (mean < SOFT_HU[1])
    fat = within & ~bone & (mean > FAT_HU[0]) & (mean < FAT_HU[1])
    count = int(soft.sum())
    low, high = np.quantile(_smoothed(mean, soft), [0.05, 0.95]) if count else (0.0, 0.0)
    return Inside(
        ml=count * float(np.prod(size)) / 1000,
        fat=float(fat.sum()) / max(1, count + int(fat.sum())),
        spread_hu=float(high - low),
        slices=int(within.any(axis=(1, 2)).sum()),
    )


def _smoothed(mean: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """Mean of the soft blocks in the 3³ neighbourhood: reduces noise and keeps ventricles."""
    amount = ndimage.uniform_filter(soft.astype(np.float32), 3)
    smoothed: np.ndarray = (ndimage.uniform_filter(np.where(soft, mean, 0), 3)[soft]) / amount[soft]
    return smoothed


def _blocks(voxels: np.ndarray, edges: list[int]) -> np.ndarray:
    """(D, d, H, h, W, w): whole blocks of `edges` voxels; remainders at the ends are dropped."""
    counts = [max(1, size // edge) for size, edge in zip(voxels.shape, edges, strict=True)]
    edges = [min(size, edge) for size, edge in zip(voxels.shape, edges, strict=True)]
    cut = voxels[tuple(slice(count * edge) for count, edge in zip(counts, edges, strict=True))]
    return cut.reshape([part for pair in zip(counts, edges, strict=True) for part in pair])


def block_means(voxels: np.ndarray, edges: list[int]) -> np.ndarray:
    """float32 (D, H, W): means of whole blocks of `edges` voxels; remainders at the ends are dropped."""
    total, count = voxels, 1
    for axis, edge in enumerate(edges):
        edge = min(edge, total.shape[axis])
        end = total.shape[axis] // edge * edge
        before = (slice(None),) * axis
        parts = [total[(*before, slice(first, end, edge))] for first in range(edge)]
        total, count = parts[0].astype(np.int32), count * edge
        for part in parts[1:]:
            total += part
    return total.astype(np.float32) / np.float32(count)


class _Polar(NamedTuple):
    """Polar coordinates of a slice's blocks about each middle of its rows and columns, which slices share.

    Arrays over the offsets of a block from a middle, in half blocks: (4 H - 3, 4 W - 3), 0 in the centre.
    """

    radius: np.ndarray
    """mm."""
    direction: np.ndarray
    """0 to `DIRECTIONS` - 1."""

    @classmethod
    def about_middles(cls, shape: tuple[int, ...], size: list[float]) -> "_Polar":
        """For slices of (H, W) blocks; size: (D, H, W), mm."""
        y, x = ((np.arange(4 * n - 3) - 2 * (n - 1)) / 2 for n in shape)
        down, across = np.meshgrid(y * size[1], x * size[2], indexing="ij")
        turns = np.arctan2(down, across) / (2 * np.pi) % 1
        return cls(np.hypot(down, across), (turns * DIRECTIONS).astype(int) % DIRECTIONS)

    def about(self, row: int, column: int) -> "_Polar":
        """About the middle at `row` and `column`, in half blocks from the first one; arrays (H, W)."""
        middles = zip(self.radius.shape, (row, column), strict=True)
        place = tuple(slice(n // 2 - middle, n - middle, 2) for n, middle in middles)
        return _Polar(self.radius[place], self.direction[place])


def _within(bone: np.ndarray, solid: np.ndarray, polar: _Polar) -> np.ndarray:
    """The inside of a slice's ring of bone, bool (H, W); empty if bone is present in too few directions."""
    nothing = np.zeros_like(bone)
    if not solid.any():
        return nothing
    labels, _ = ndimage.label(solid)
    largest = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    rows, columns = np.nonzero(largest & bone)
    if not rows.size:
        return nothing
    radius, direction = polar.about(rows.min() + rows.max(), columns.min() + columns.max())
    reach = np.zeros(DIRECTIONS)
    vault = largest & bone & (radius >= MIN_RADIUS_MM)
    np.maximum.at(reach, direction[vault], radius[vault])
    known = reach > 0
    if known.mean() < MIN_RING:
        return nothing
    places = np.arange(DIRECTIONS)
    reach = np.interp(places, places[known], reach[known], period=DIRECTIONS)
    enclosed: np.ndarray = largest & (radius < reach[direction])
    return enclosed
