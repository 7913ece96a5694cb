"""Resampling a stack of slices onto a grid along the patient's axes, by each slice's true position.

One rule serves every acquisition (tilted either way, unevenly spaced, feet first, prone, rotated,
coronal, sagittal): an output voxel's centre is a point in the patient; its feet on the two slices it
lies between are sampled bilinearly, each in its own slice's coordinates, and blended linearly by the
distances. Where the grid is coarser than the pixels, slices are first averaged over one voxel's width,
so that what the grid cannot hold does not alias.
"""

from dataclasses import dataclass

import numba
import numpy as np

from preprocess.geometry import Stack

INDEX_STEPS = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])
"""Rows: the patient direction (LPS) in which d, h, w grow: superior, anterior, right."""

LINE_DRIFT = 1e-9
"""Rows that turn out of the w axis by less, per voxel, are along it: under 1e-6 mm over a field."""


@dataclass(frozen=True)
class Grid:
    """A box of voxels along the patient's axes."""

    origin: np.ndarray
    """float64 (3,): LPS mm of the centre of voxel (0, 0, 0)."""
    spacing: tuple[float, float, float]
    """(D, H, W) mm."""
    shape: tuple[int, int, int]
    """(D, H, W) voxels."""

    @property
    def affine(self) -> np.ndarray:
        """float64 (4, 4): (d, h, w, 1) to LPS mm."""
        affine = np.eye(4)
        affine[:3, :3] = INDEX_STEPS.T * self.spacing
        affine[:3, 3] = self.origin
        return affine


def slab_half(slices: Stack) -> tuple[float, float]:
    """How far the scan reaches beyond its first and last slice's centre, mm: half the gap beside it."""
    steps = np.diff(slices.heights)
    return steps[0] / 2, steps[-1] / 2


def field(slices: Stack, spacing: tuple[float, float, float]) -> Grid:
    """The least grid that covers all slices to their pixels' outer edges."""
    rows, columns = slices.matrix
    row_mm, column_mm = slices.spacing
    below, above = slab_half(slices)
    corners = [
        position + i * row_mm * slices.row_step + j * column_mm * slices.column_step + shift * slices.normal
        for position, shift in ((slices.positions[0], -below), (slices.positions[-1], above))
        for i in (-0.5, rows - 0.5)
        for j in (-0.5, columns - 0.5)
    ]
    # Slices between may stick out sideways where they were reconstructed about another centre.
    corners += [p + c - slices.positions[0] for p in slices.positions for c in corners[:4]]
    along = np.array(corners) @ INDEX_STEPS.T
    return box(along.min(axis=0), along.max(axis=0), spacing)


def box(low: np.ndarray, high: np.ndarray, spacing: tuple[float, float, float]) -> Grid:
    """The grid that fills [low, high], given in mm along `INDEX_STEPS`, with whole voxels."""
    shape = np.maximum(np.rint((high - low) / spacing), 1).astype(int)
    first = (low + high - (shape - 1) * spacing) / 2
    return Grid(first @ INDEX_STEPS, spacing, (int(shape[0]), int(shape[1]), int(shape[2])))


def antialias(hu: np.ndarray, slices: Stack, spacing: tuple[float, float, float]) -> np.ndarray:
    """Average each slice over one output voxel's width where that is more than a pixel.

    hu: int16 (N, rows, columns). Returns float32 of the same shape, or `hu` itself where the grid is
    not coarser. The average is a box of (voxel width / pixel width) pixels, its ends weighted by
    fraction; it is symmetric, so positions stay. Edges repeat the outermost pixel.
    """
    widths = [
        float(np.linalg.norm(INDEX_STEPS @ step * spacing)) / pixel
        for step, pixel in zip((slices.row_step, slices.column_step), slices.spacing, strict=True)
    ]
    if max(widths) <= 1:
        return hu
    return _box_filter(hu, _box_weights(widths[0]), _box_weights(widths[1]))


def _box_weights(width: float) -> np.ndarray:
    """float32 (2 m + 1,): a box `width` pixels wide over pixel centres; one weight where width <= 1."""
    reach = int(np.ceil((width - 1) / 2)) if width > 1 else 0
    weights = np.ones(2 * reach + 1)
    if reach:
        weights[[0, -1]] = (width - (2 * reach - 1)) / 2
    return (weights / weights.sum()).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _box_filter(hu: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    count, rows, columns = hu.shape
    reach_down, reach_across = len(down) // 2, len(across) // 2
    out = np.empty(hu.shape, np.float32)
    line = np.empty(columns + 2 * reach_across, np.float32)
    for k in range(count):
        for i in range(rows):
            middle = line[reach_across : reach_across + columns]
            middle[:] = 0
            for a in range(-reach_down, reach_down + 1):
                source = hu[k, min(max(i + a, 0), rows - 1)]
                weight = down[a + reach_down]
                for j in range(columns):
                    middle[j] += weight * source[j]
            line[:reach_across] = middle[0]
            line[reach_across + columns :] = middle[-1]
            target = out[k, i]
            target[:] = 0
            for b in range(2 * reach_across + 1):
                weight = across[b]
                for j in range(columns):
                    target[j] += weight * line[j + b]
    return out


def resample(hu: np.ndarray, slices: Stack, grid: Grid, outside: int) -> np.ndarray:
    """Sample the stack at the grid's voxel centres.

    hu: (N, rows, columns), int16 or what `antialias` gave. Returns int16 `grid.shape`, rounded; a voxel
    with a foot beyond the outer edge of its slice's pixels, or farther than half a gap from the first or
    last slice, is `outside`.
    """
    row_mm, column_mm = slices.spacing
    # Rows map LPS mm to (row, column) index and height; a slice's own position is subtracted in those.
    to_slice = np.stack([slices.row_step / row_mm, slices.column_step / column_mm, slices.normal])
    steps = to_slice @ (INDEX_STEPS.T * grid.spacing)
    below, above = slab_half(slices)
    out = np.empty(grid.shape, np.int16)
    # With rows along w, row and height are constant on an output line: columns can be done once a slice.
    lines = abs(steps[0, 2]) < LINE_DRIFT and abs(steps[2, 2]) < LINE_DRIFT
    sample = _sample_lines if lines else _sample
    sample(
        hu,
        slices.positions @ to_slice.T,
        to_slice @ grid.origin,
        steps,
        slices.heights[0] - below,
        slices.heights[-1] + above,
        outside,
        out,
    )
    return out


@numba.njit(cache=True, nogil=True)
def _sample(
    hu: np.ndarray,
    starts: np.ndarray,
    origin: np.ndarray,
    steps: np.ndarray,
    lowest: float,
    highest: float,
    outside: int,
    out: np.ndarray,
) -> None:
    """starts: (N, 3) (row, column, height) of each slice's first pixel; steps: (3, 3) per d, h, w."""
    count, rows, columns = hu.shape
    depth, height, width = out.shape
    for d in range(depth):
        for h in range(height):
            k = 0
            r0 = origin[0] + d * steps[0, 0] + h * steps[0, 1]
            c0 = origin[1] + d * steps[1, 0] + h * steps[1, 1]
            t0 = origin[2] + d * steps[2, 0] + h * steps[2, 1]
            for w in range(width):
                t = t0 + w * steps[2, 2]
                if t < lowest or t > highest:
                    out[d, h, w] = outside
                    continue
                while k < count - 2 and t >= starts[k + 1, 2]:
                    k += 1
                while k > 0 and t < starts[k, 2]:
                    k -= 1
                blend = (t - starts[k, 2]) / (starts[k + 1, 2] - starts[k, 2])
                blend = min(max(blend, 0.0), 1.0)
                r = r0 + w * steps[0, 2]
                c = c0 + w * steps[1, 2]
                rl, cl = r - starts[k, 0], c - starts[k, 1]
                ru, cu = r - starts[k + 1, 0], c - starts[k + 1, 1]
                if not (_within(rl, cl, rows, columns) and _within(ru, cu, rows, columns)):
                    out[d, h, w] = outside
                    continue
                lower = _bilinear(hu[k], rl, cl)
                upper = _bilinear(hu[k + 1], ru, cu)
                out[d, h, w] = np.rint(lower + blend * (upper - lower))


@numba.njit(cache=True, nogil=True)
def _sample_lines(
    hu: np.ndarray,
    starts: np.ndarray,
    origin: np.ndarray,
    steps: np.ndarray,
    lowest: float,
    highest: float,
    outside: int,
    out: np.ndarray,
) -> None:
    """`_sample` where rows run along w: the same arithmetic, columns first and then whole lines."""
    count, rows, columns = hu.shape
    depth, height, width = out.shape
    lines = np.empty((count, rows, width), np.float32)
    valid = np.empty((count, width), np.bool_)
    left = np.empty(width, np.int64)
    share = np.empty(width, np.float32)
    for k in range(count):
        for w in range(width):
            c = origin[1] + w * steps[1, 2] - starts[k, 1]
            valid[k, w] = -0.5 <= c <= columns - 0.5
            c = min(max(c, 0.0), columns - 1.0)
            left[w] = min(int(c), columns - 2)
            share[w] = c - left[w]
        for i in range(rows):
            for w in range(width):
                value = np.float32(hu[k, i, left[w]])
                lines[k, i, w] = value + share[w] * (np.float32(hu[k, i, left[w] + 1]) - value)
    for d in range(depth):
        k = 0
        for h in range(height):
            line = out[d, h]
            line[:] = outside
            t = origin[2] + d * steps[2, 0] + h * steps[2, 1]
            if t < lowest or t > highest:
                continue
            while k < count - 2 and t >= starts[k + 1, 2]:
                k += 1
            while k > 0 and t < starts[k, 2]:
                k -= 1
            r = origin[0] + d * steps[0, 0] + h * steps[0, 1]
            rl, ru = r - starts[k, 0], r - starts[k + 1, 0]
            if not (-0.5 <= rl <= rows - 0.5 and -0.5 <= ru <= rows - 0.5):
                continue
            rl, ru = min(max(rl, 0.0), rows - 1.0), min(max(ru, 0.0), rows - 1.0)
            il, iu = min(int(rl), rows - 2), min(int(ru), rows - 2)
            blend = min(max((t - starts[k, 2]) / (starts[k + 1, 2] - starts[k, 2]), 0.0), 1.0)
            w00, w01 = np.float32((1 - blend) * (1 - rl + il)), np.float32((1 - blend) * (rl - il))
            w10, w11 = np.float32(blend * (1 - ru + iu)), np.float32(blend * (ru - iu))
            l0, l1 = lines[k, il], lines[k, il + 1]
            u0, u1 = lines[k + 1, iu], lines[k + 1, iu + 1]
            for w in range(width):
                value = np.rint(w00 * l0[w] + w01 * l1[w] + w10 * u0[w] + w11 * u1[w])
                line[w] = np.int16(value) if valid[k, w] and valid[k + 1, w] else outside


@numba.njit(cache=True, nogil=True, inline="always")
def _within(r: float, c: float, rows: int, columns: int) -> bool:
    """Is the point within the outer edges of the pixels?"""
    return -0.5 <= r <= rows - 0.5 and -0.5 <= c <= columns - 0.5


@numba.njit(cache=True, nogil=True, inline="always")
def _bilinear(image: np.ndarray, r: float, c: float) -> float:
    """Between pixel centres; the half pixel beyond the outermost centres repeats them."""
    rows, columns = image.shape
    r = min(max(r, 0.0), rows - 1.0)
    c = min(max(c, 0.0), columns - 1.0)
    i = min(int(r), rows - 2)
    j = min(int(c), columns - 2)
    u = r - i
    v = c - j
    top = image[i, j] + v * (image[i, j + 1] - image[i, j])
    bottom = image[i + 1, j] + v * (image[i + 1, j + 1] - image[i + 1, j])
    return top + u * (bottom - top)
