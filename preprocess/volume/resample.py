"""Resampling a stack of slices onto a grid along the patient's axes, by each slice's true position.

One rule handles every acquisition (tilted either way, unevenly spaced, feet first, prone, rotated, coronal,
sagittal): the centre of an output voxel is a point in the patient. It is projected onto the two slices around
it; both are sampled bilinearly at the projections, in their own coordinates, and blended linearly by the
distances. In each direction where the grid is coarser than the pixels (rows, columns, or slices closer
together than a voxel's width), the sampled image is first averaged over one voxel's width to avoid aliasing.
"""

from dataclasses import dataclass

import numpy as np

from preprocess.dicom.geometry import SAME_POSITION_MM, Stack
from shards.compiled import njit
from shards.voxels import INDEX_STEPS

LINE_DRIFT = 1e-9
"""Rows that deviate from the w axis by less, per voxel, count as along it: under 1e-6 mm over a field."""


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
    """Extent of the scan beyond its first and last slice's centre, mm: half the adjacent gap."""
    steps = np.diff(slices.heights)
    return steps[0] / 2, steps[-1] / 2


def field(slices: Stack, spacing: tuple[float, float, float]) -> Grid:
    """The smallest grid that covers all slices to their pixels' outer edges."""
    rows, columns = slices.matrix
    row_mm, column_mm = slices.spacing
    below, above = slab_half(slices)
    corners = [
        position + i * row_mm * slices.row_step + j * column_mm * slices.column_step + shift * slices.normal
        for position, shift in ((slices.positions[0], -below), (slices.positions[-1], above))
        for i in (-0.5, rows - 0.5)
        for j in (-0.5, columns - 0.5)
    ]
    # Inner slices may extend further sideways if they were reconstructed about another centre.
    corners += [p + c - slices.positions[0] for p in slices.positions for c in corners[:4]]
    along = np.array(corners) @ INDEX_STEPS.T
    return box(along.min(axis=0), along.max(axis=0), spacing)


def box(low: np.ndarray, high: np.ndarray, spacing: tuple[float, float, float]) -> Grid:
    """The grid of whole voxels that covers [low, high], given in mm along `INDEX_STEPS`."""
    shape = np.maximum(np.rint((high - low) / spacing), 1).astype(int)
    first = (low + high - (shape - 1) * spacing) / 2
    return Grid(first @ INDEX_STEPS, spacing, (int(shape[0]), int(shape[1]), int(shape[2])))


def box_weights(width: float) -> np.ndarray:
    """float32 (2 m + 1,): weights of a box `width` pixels wide over pixel centres; one weight if width <= 1.

    The end weights are the fractions of their pixels that the box covers.
    """
    reach = int(np.ceil((width - 1) / 2)) if width > 1 else 0
    weights = np.ones(2 * reach + 1)
    if reach:
        weights[[0, -1]] = (width - (2 * reach - 1)) / 2
    return (weights / weights.sum()).astype(np.float32)


def slice_weights(heights: np.ndarray, width_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Averaging weights like `box_weights`, for slices at any heights: first slice's number, and weights.

    heights: (N,) ascending mm. Each slice represents the range nearer to it than to its neighbours, the
    outermost everything beyond. Returns int64 (N,) and float32 (N, M); row k averages slice k and its
    neighbours over `width_mm` around it, and is slice k alone if they are at least as far apart.
    The average fits a local straight line (weights times a + b·distance, with a and b such that a ramp is
    preserved), because neighbours of unevenly spaced slices lie more to one side.
    """
    middles = (heights[1:] + heights[:-1]) / 2
    half = max(width_mm, SAME_POSITION_MM) / 2
    low, high = heights - half, heights + half
    first = np.searchsorted(middles, low, "right")
    last = np.searchsorted(middles, high, "left")
    each = first[:, None] + np.arange((last - first).max() + 1)
    edges = np.concatenate([[-np.inf], middles, np.full(each.shape[1], np.inf)])
    overlap = np.minimum(edges[each + 1], high[:, None]) - np.maximum(edges[each], low[:, None])
    weights = np.where(each <= last[:, None], overlap, 0) / (2 * half)
    distance = heights[np.minimum(each, len(heights) - 1)] - heights[:, None]
    mean, square = ((weights * distance**power).sum(axis=1, keepdims=True) for power in (1, 2))
    alone = square == 0
    weights *= (square - mean * distance + alone) / (square - mean**2 + alone)
    return first, weights.astype(np.float32)


def resample(hu: np.ndarray, slices: Stack, grid: Grid, outside: int, smooth: bool = True) -> np.ndarray:
    """Sample the stack at the grid's voxel centres.

    hu: int16 (N, rows, columns). Returns int16 `grid.shape`, rounded; a voxel whose projection is beyond the
    outer edge of its slice's pixels, or farther than half a gap from the first or last slice, is `outside`.
    Without `smooth`, a coarser grid samples single points without averaging.
    """
    pixels = np.stack([slices.row_step / slices.spacing[0], slices.column_step / slices.spacing[1]])
    # Rows map LPS mm to (row, column) index and height; a slice's own position is subtracted in those.
    to_slice = np.vstack([pixels, slices.normal])
    steps = to_slice @ (INDEX_STEPS.T * grid.spacing)
    # A voxel's width along each: exact along the grid's axes, that of an ellipsoid in between.
    widths = np.linalg.norm(steps, axis=1) if smooth else np.zeros(3)
    first, weights = slice_weights(slices.heights, widths[2])
    below, above = slab_half(slices)
    out = np.full(grid.shape, outside, np.int16)
    # With rows along w, row and height are constant on an output line: columns are computed once per row.
    lines = abs(steps[0, 2]) < LINE_DRIFT and abs(steps[2, 2]) < LINE_DRIFT
    starts, origin = slices.positions @ to_slice.T, to_slice @ grid.origin
    reach = slices.heights[0] - below, slices.heights[-1] + above
    boxes = box_weights(widths[0]), box_weights(widths[1])
    if lines:
        room = slices_of_a_plane(slices.heights, abs(steps[2, 1]) * grid.shape[1], weights)
        _sample_lines(hu, starts, origin, steps, reach, boxes, first, weights, room, out)
    else:
        image = _averaged(hu, *boxes) if max(map(len, boxes)) > 1 else hu
        _sample_points(image, starts, origin, steps, reach, first, weights, out)
    return out


def slices_of_a_plane(heights: np.ndarray, extent: float, weights: np.ndarray) -> int:
    """Upper bound on the slices that a plane of the grid uses if it spans `extent` mm of `heights`, in mm."""
    last = np.searchsorted(heights, heights + extent, "right")
    most = int((last - np.arange(len(heights))).max())
    return min(most + weights.shape[1] + 2, len(heights))


@njit(inline="always")
def _between(x: float, count: int) -> tuple[int, int, float]:
    """The pixels around an index and the weight of the second; edge pixels repeat beyond the ends."""
    x = min(max(x, 0.0), count - 1.0)
    i = min(int(x), max(count - 2, 0))
    return i, min(i + 1, count - 1), x - i


@njit(inline="always")
def _slice_below(k: int, t: float, starts: np.ndarray) -> int:
    """The slice at or below height t (or the first, or the last but one), searched from k."""
    while k < len(starts) - 2 and t >= starts[k + 1, 2]:
        k += 1
    while k > 0 and t < starts[k, 2]:
        k -= 1
    return k


@njit(inline="always")
def _blend(t: float, k: int, starts: np.ndarray) -> float:
    return min(max((t - starts[k, 2]) / (starts[k + 1, 2] - starts[k, 2]), 0.0), 1.0)


@njit(inline="always")
def _share(j: int, k: int, blend: float, first: np.ndarray, weights: np.ndarray) -> float:
    """The weight of slice j in the blend of the averages around slices k and k + 1."""
    share = 0.0
    if first[k] <= j < first[k] + weights.shape[1]:
        share += (1 - blend) * weights[k, j - first[k]]
    if first[k + 1] <= j < first[k + 1] + weights.shape[1]:
        share += blend * weights[k + 1, j - first[k + 1]]
    return share


@njit()
def _sample_points(
    image: np.ndarray,
    starts: np.ndarray,
    origin: np.ndarray,
    steps: np.ndarray,
    reach: tuple[float, float],
    first: np.ndarray,
    weights: np.ndarray,
    out: np.ndarray,
) -> None:
    """starts: (N, 3) (row, column, height) of each slice's first pixel; steps: (3, 3) per d, h, w."""
    count, rows, columns = image.shape
    depth, height, width = out.shape
    for d in range(depth):
        for h in range(height):
            k = 0
            r0 = origin[0] + d * steps[0, 0] + h * steps[0, 1]
            c0 = origin[1] + d * steps[1, 0] + h * steps[1, 1]
            t0 = origin[2] + d * steps[2, 0] + h * steps[2, 1]
            for w in range(width):
                t = t0 + w * steps[2, 2]
                if not reach[0] <= t <= reach[1]:
                    continue
                k = _slice_below(k, t, starts)
                r, c = r0 + w * steps[0, 2], c0 + w * steps[1, 2]
                if not (
                    _within(r, c, starts[k], rows, columns) and _within(r, c, starts[k + 1], rows, columns)
                ):
                    continue
                blend = _blend(t, k, starts)
                value = 0.0
                for j in range(first[k], min(first[k + 1] + weights.shape[1], count)):
                    share = _share(j, k, blend, first, weights)
                    if share:
                        value += share * _bilinear(image[j], r - starts[j, 0], c - starts[j, 1])
                out[d, h, w] = np.rint(value)


@njit()
def _averaged(hu: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """float32 (N, rows, columns): every slice averaged over both boxes; edge pixels repeat beyond edges."""
    count, rows, columns = hu.shape
    out = np.empty(hu.shape, np.float32)
    padded = np.empty(columns + len(across) - 1, np.float32)
    for k in range(count):
        for i in range(rows):
            _average_row(hu[k], i, down, across, padded, out[k, i])
    return out


@njit(inline="always")
def _average_row(
    image: np.ndarray, i: int, down: np.ndarray, across: np.ndarray, padded: np.ndarray, line: np.ndarray
) -> None:
    """Average row i of an image over both boxes into `line`, using the buffer `padded`."""
    rows, columns = image.shape
    margin = len(across) // 2
    middle = padded[margin : margin + columns]
    middle[:] = 0
    for a in range(len(down)):
        source = image[min(max(i + a - len(down) // 2, 0), rows - 1)]
        for j in range(columns):
            middle[j] += down[a] * source[j]
    padded[:margin] = middle[0]
    padded[margin + columns :] = middle[columns - 1]
    line[:] = 0
    for b in range(len(across)):
        for j in range(columns):
            line[j] += across[b] * padded[j + b]


@njit()
def _columns_of_lines(
    starts: np.ndarray, origin: np.ndarray, steps: np.ndarray, columns: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Each (slice, w): the two columns it lies between, the share of the second, whether it is inside."""
    count = len(starts)
    # Unsigned: of a signed index compiled code tests whether it is negative.
    left, right = np.empty((count, width), np.uint32), np.empty((count, width), np.uint32)
    share_right = np.empty((count, width), np.float32)
    valid = np.empty((count, width), np.bool_)
    for k in range(count):
        for w in range(width):
            c = origin[1] + w * steps[1, 2] - starts[k, 1]
            valid[k, w] = -0.5 <= c <= columns - 0.5
            left[k, w], right[k, w], share_right[k, w] = _between(c, columns)
    return left, right, share_right, valid


@njit()
def _sample_lines(
    hu: np.ndarray,
    starts: np.ndarray,
    origin: np.ndarray,
    steps: np.ndarray,
    reach: tuple[float, float],
    boxes: tuple[np.ndarray, np.ndarray],
    first: np.ndarray,
    weights: np.ndarray,
    room: int,
    out: np.ndarray,
) -> None:
    """`_averaged` and `_sample_points` for rows along w: a slice's row is resampled to columns once.

    room: slices whose rows are kept, at least those of one plane of `out`; the next ones take their places.
    """
    count, rows, columns = hu.shape
    depth, height, width = out.shape
    left, right, share_right, valid = _columns_of_lines(starts, origin, steps, columns, width)
    padded = np.empty(columns + len(boxes[1]) - 1, np.float32)
    row = np.empty(columns, np.float32)
    lines = np.empty((room, rows, width), np.float32)
    done = np.zeros((room, rows), np.bool_)
    kept = np.full(room, -1, np.int64)
    line = np.empty(width, np.float32)
    for d in range(depth):
        k = 0
        for h in range(height):
            t = origin[2] + d * steps[2, 0] + h * steps[2, 1]
            if not reach[0] <= t <= reach[1]:
                continue
            k = _slice_below(k, t, starts)
            r = origin[0] + d * steps[0, 0] + h * steps[0, 1]
            if not (-0.5 <= r - starts[k, 0] <= rows - 0.5 and -0.5 <= r - starts[k + 1, 0] <= rows - 0.5):
                continue
            blend = _blend(t, k, starts)
            line[:] = 0
            for j in range(first[k], min(first[k + 1] + weights.shape[1], count)):
                share = _share(j, k, blend, first, weights)
                if not share:
                    continue
                upper, lower, v = _between(r - starts[j, 0], rows)
                at = j % room
                if kept[at] != j:
                    kept[at] = j
                    done[at] = False
                for i in (upper, lower):
                    if not done[at, i]:
                        done[at, i] = True
                        _average_row(hu[j], i, boxes[0], boxes[1], padded, row)
                        one, other, share_other, sampled = left[j], right[j], share_right[j], lines[at, i]
                        for w in range(width):
                            value = row[one[w]]
                            sampled[w] = value + share_other[w] * (row[other[w]] - value)
                over, under = np.float32(share * (1 - v)), np.float32(share * v)
                upper_line, lower_line = lines[at, upper], lines[at, lower]
                for w in range(width):
                    line[w] += over * upper_line[w] + under * lower_line[w]
            target = out[d, h]
            for w in range(width):
                target[w] = np.int16(np.rint(line[w])) if valid[k, w] and valid[k + 1, w] else target[w]


@njit(inline="always")
def _within(r: float, c: float, start: np.ndarray, rows: int, columns: int) -> bool:
    """Whether the point is within the outer edges of the slice's pixels."""
    return -0.5 <= r - start[0] <= rows - 0.5 and -0.5 <= c - start[1] <= columns - 0.5


@njit(inline="always")
def _bilinear(image: np.ndarray, r: float, c: float) -> float:
    """Bilinear between pixel centres; the half pixel beyond the outermost centres repeats them."""
    i, below, u = _between(r, image.shape[0])
    j, right, v = _between(c, image.shape[1])
    top = image[i, j] + v * (image[i, right] - image[i, j])
    bottom = image[below, j] + v * (image[below, right] - image[below, j])
    return top + u * (bottom - top)
