"""The heart of the imaging path: one pass from int16 HU to a windowed, resized view.

A view's voxel in channel c is the mean, over the crop's voxels in its bin, of
clip((HU - (level_c - width_c / 2)) / width_c, 0, 1): windows first, then PyTorch's `area`
interpolation (adaptive average pooling), the order of NYUMedML/headCT_foundation. Output i of S
along an axis of n voxels averages [floor(i·n / S), ceil((i + 1)·n / S)); bins overlap where S
doesn't divide n, and repeat voxels where S exceeds n.

The sums are separable: over H while a plane is read, over D by keeping the few planes that
the present bins touch, over W last. Sums of a window with whole bounds are whole numbers
below 2^24, so float32 holds them exactly and only the final division rounds.
"""

from collections.abc import Sequence

import numba
import numpy as np

AIR_HU = -1000
"""What lies outside the volume (Hounsfield's definition of air)."""

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


def cut_view(
    box: np.ndarray,
    start: Sequence[int],
    edge: Sequence[int],
    windows: Sequence[tuple[float, float]],
    size: int,
) -> np.ndarray:
    """Window and resize a crop.

    Args:
        box: int16 HU (D, H, W).
        start: first voxel of the crop in the box's voxels, per axis; outside the box is air.
        edge: voxels of the crop, per axis, at least 1.
        windows: (level, width) in HU, one a channel.
        size: edge S of the view.

    Returns:
        float32 (C, S, S, S) in [0, 1].
    """
    levels, widths = np.array(windows, np.float32).reshape(-1, 2).T.copy()
    view = np.empty((len(levels), size, size, size), np.float32)
    origin, extent = np.array(start, np.int64), np.array(edge, np.int64)
    _cut(np.ascontiguousarray(box), origin, extent, levels - widths / 2, widths, view)
    return view


@_jit
def _cut(box, start, edge, floors, widths, view):  # type: ignore[no-untyped-def]
    channels, size = view.shape[:2]
    first_d, last_d = _bins(edge[0], size)
    first_h, last_h = _bins(edge[1], size)
    first_w, last_w = _bins(edge[2], size)
    lengths = last_w - first_w
    # Unsigned, because a signed index would be tested for Python's negative meaning.
    places = ((lengths - 1) * edge[2] + first_w).astype(np.uint32)
    shares = (1 / lengths).astype(np.float32)
    runs = np.zeros((lengths.max(), edge[2]), np.float32)
    kept = (last_d - first_d).max()
    planes = np.empty((channels, kept, size, edge[2]), np.float32)
    plane = np.empty((edge[1], edge[2]), np.float32)
    ready = 0
    for d in range(size):
        for source in range(max(ready, first_d[d]), last_d[d]):
            _read_plane(box, start, source, plane)
            for c in range(channels):
                _sum_over_h(plane, first_h, last_h, floors[c], widths[c], planes[c, source % kept])
        ready = last_d[d]
        voxels = (last_d[d] - first_d[d]) * (last_h - first_h)
        for c in range(channels):
            scales = (1 / (widths[c] * voxels)).astype(np.float32)
            _mean_over_d_and_w(planes[c], first_d[d], last_d[d], runs, places, shares, scales, view[c, d])


@_jit
def _bins(voxels, size):  # type: ignore[no-untyped-def]
    """First voxel and end of each of `size` bins over `voxels` (torch's adaptive pooling rule)."""
    index = np.arange(size)
    return index * voxels // size, ((index + 1) * voxels + size - 1) // size


@_jit
def _read_plane(box, start, source, plane):  # type: ignore[no-untyped-def]
    """Plane `source` of the crop as float32 HU, air where the box has no voxel."""
    d = start[0] + source
    left = min(max(-start[2], 0), plane.shape[1])
    right = max(min(box.shape[2] - start[2], plane.shape[1]), left)
    for i in range(plane.shape[0]):
        h = start[1] + i
        row = plane[i]
        if d < 0 or d >= box.shape[0] or h < 0 or h >= box.shape[1]:
            row[:] = AIR_HU
            continue
        row[:left] = AIR_HU
        row[right:] = AIR_HU
        voxels = box[d, h][start[2] + left : start[2] + right]
        inside = row[left:right]
        for w in range(inside.size):
            inside[w] = np.float32(voxels[w])


@_jit
def _sum_over_h(plane, first, last, floor, width, sums):  # type: ignore[no-untyped-def]
    """Sums over each bin of rows of clip(HU - floor, 0, width)."""
    zero = np.float32(0)
    for h in range(first.size):
        total = sums[h]
        row = plane[first[h]]
        for w in range(total.size):
            total[w] = min(max(row[w] - floor, zero), width)
        for i in range(first[h] + 1, last[h]):
            row = plane[i]
            for w in range(total.size):
                total[w] += min(max(row[w] - floor, zero), width)


@_jit
def _mean_over_d_and_w(planes, first, last, runs, places, shares, scales, view):  # type: ignore[no-untyped-def]
    """Means over planes [first, last) and each bin of columns, times each row's scale, to `view` (S, S).

    `runs[k]` takes the sums of k + 1 neighbouring columns, and a bin of k + 1 columns is one of them:
    summing all neighbours vectorises, a loop over bins of varying length would not.
    """
    kept, voxels = planes.shape[0], runs.shape[1]
    flat = runs.reshape(-1)
    for h in range(view.shape[0]):
        total = runs[0]
        row = planes[first % kept, h]
        for w in range(voxels):
            total[w] = row[w]
        for d in range(first + 1, last):
            row = planes[d % kept, h]
            for w in range(voxels):
                total[w] += row[w]
        for k in range(1, runs.shape[0]):
            longer, shorter, shifted = runs[k], runs[k - 1], runs[0][k:]
            for w in range(voxels - k):
                longer[w] = shorter[w] + shifted[w]
        means = view[h]
        for w in range(means.size):
            means[w] = flat[places[w]] * (shares[w] * scales[h])
