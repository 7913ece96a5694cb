"""Detection of volumes that show the same head with different pixels: a scan exported under two patients.

Another kernel, window, rounding or crop gives other bytes, and so another `source_digest`. The folds of the
brain do not change: a sketch is the brain's small structure in cells of 8 mm around the middle of the head,
and two sketches are compared by their correlation.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy import ndimage

from preprocess.anatomy.brain import block_means

THIN_MM = 2.0
SMOOTH_MM = 6.0
"""Smoothing, before bone and air are excluded, that removes noise and the kernel's effect on edges."""
BRAIN_HU, REACH_HU = 32.0, 20.0
"""The middle of grey matter, white matter and the edge of CSF. Beyond the reach the weight of a value falls,
to zero at twice the reach: bone and air, which all heads have at the same positions, carry no information."""
CELL_MM = 8.0
CELLS = (12, 20, 16)
"""(D, H, W): 96 mm from the crown down, 160 mm from front to back, 128 mm across."""
NEIGHBOURS = 3
"""The mean over this many cells is subtracted: it removes ventricle sizes and offsets of a few HU."""
DENSE_HU = -500
CROWN = 0.5
"""The crown is the first plane from the top with this share of the largest area."""
NUMBERS = 256
"""Length of a sketch: random projections keep a correlation r to (1 - r²) / √256 (one standard deviation)."""
SIMILAR = 0.8
"""None of 1,770 pairs of different heads of the generator is above 0.75; the same head with other noise (to 8
HU), kernel, offset, rounding, window or field has 0.81 to 0.99 (tests/unit/test_similar_volumes.py)."""
BLOCK = 2048
PAIR = np.dtype([("row", "i4"), ("later", "i4"), ("correlation", "f4")])


def sketch(voxels: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """float32 (`NUMBERS`,), unit length, of a stored volume, int16 HU (D, H, W); zeros without structure."""
    steps = [max(1, round(THIN_MM / spacing)) for spacing in spacing_mm]
    thin = block_means(voxels, steps)
    edges = [step * spacing for step, spacing in zip(steps, spacing_mm, strict=True)]
    centres = _middle(thin > DENSE_HU, edges)
    smooth = ndimage.uniform_filter(thin, [max(1, round(SMOOTH_MM / edge)) for edge in edges])
    off = smooth - np.float32(BRAIN_HU)
    reduced = np.sign(off) * np.clip(np.minimum(np.abs(off), 2 * REACH_HU - np.abs(off)), 0, None)
    for axis in (2, 1, 0):
        shares = _shares(reduced.shape[axis], centres[axis], CELL_MM / edges[axis], CELLS[axis])
        reduced = np.moveaxis(np.tensordot(reduced, shares, (axis, 1)), -1, axis)
    reduced -= ndimage.uniform_filter(reduced, NEIGHBOURS)
    numbers = reduced.ravel() @ _projection()
    length = float(np.linalg.norm(numbers))
    return numbers / np.float32(length) if length else numbers


def similar_pairs(sketches: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Pairs of sketches (N, `NUMBERS`) of different patients with a correlation of `SIMILAR` or more.

    patients: (N,), equal numbers for one patient. Returns records (`PAIR`): row, later row, correlation.
    All pairs are compared by block products: N² · `NUMBERS` operations, 6 minutes on one core for 300,000
    volumes.
    """
    blocks = [np.empty(0, PAIR)]
    for first in range(0, len(sketches), BLOCK):
        for second in range(first, len(sketches), BLOCK):
            products = sketches[first : first + BLOCK] @ sketches[second : second + BLOCK].T
            rows, columns = np.nonzero(products >= SIMILAR)
            pairs = np.empty(len(rows), PAIR)
            pairs["row"], pairs["later"] = first + rows, second + columns
            pairs["correlation"] = products[rows, columns]
            different = patients[pairs["row"]] != patients[pairs["later"]]
            blocks.append(pairs[different & (pairs["row"] < pairs["later"])])
    return np.concatenate(blocks)


def _middle(dense: np.ndarray, edges_mm: Sequence[float]) -> list[float]:
    """The middle of the cells, in voxels from the first voxel's edge: below the crown, and at the medians.

    A head rest or a truncated ear moves medians little.
    """
    areas = dense.sum(axis=(1, 2))
    wanted = CROWN * areas.max()
    last = int(np.flatnonzero(areas >= wanted)[-1])
    above = int(areas[last + 1]) if last + 1 < len(areas) else 0
    crown = last + 0.5 + float(areas[last] - wanted) / max(int(areas[last]) - above, 1)
    depth = CELLS[0] * CELL_MM / edges_mm[0]
    upper = dense[max(0, round(crown - depth)) : last + 1]
    return [crown - depth / 2, _median(upper.sum(axis=(0, 2))), _median(upper.sum(axis=(0, 1)))]


def _median(profile: np.ndarray) -> float:
    total = np.concatenate([[0], np.cumsum(profile)])
    return float(np.interp(total[-1] / 2, total, np.arange(len(total))))


def _shares(size: int, centre: float, cell: float, cells: int) -> np.ndarray:
    """float32 (cells, size): each voxel's share of each cell; `centre` and `cell` in voxels."""
    bounds = centre + cell * (np.arange(cells + 1) - cells / 2)
    places = np.arange(size)
    overlap = np.minimum(bounds[1:, None], places + 1) - np.maximum(bounds[:-1, None], places)
    return (np.maximum(overlap, 0) / cell).astype(np.float32)


@cache
def _projection() -> np.ndarray:
    """float32 (cells, `NUMBERS`), fixed for all versions."""
    draws = np.random.Generator(np.random.Philox(key=0))
    return draws.standard_normal((int(np.prod(CELLS)), NUMBERS), dtype=np.float32)
