"""The core of the imaging path: one pass from int16 HU to a windowed, resized, flipped, shifted view.

A view's voxel in channel c is the mean, over the crop's voxels in its bin, of
clip((HU - (level_c - width_c / 2)) / width_c, 0, 1): windows first, then PyTorch's `area`
interpolation (adaptive average pooling), the order of NYUMedML/headCT_foundation. Output i of S
along an axis of n voxels averages [floor(i·n / S), ceil((i + 1)·n / S)); bins overlap if S
doesn't divide n, and repeat voxels if S exceeds n. Flips and the intensity shift are applied when
the result is written, at no cost.

The sums are separable: over H while a plane is read, over D from the few planes that the current
bins cover, over W last. Sums of a window with integer bounds are integers, which are exact in 16
bits if the window is not too wide (twice the voxels per instruction), else in float32 up to 2^24;
only the final scaling rounds.
"""

from collections.abc import Sequence

import numpy as np

from fmct_hpc.fields import Size, edges
from shards.compiled import njit

AIR_HU = -1000
"""Value outside the volume (Hounsfield's definition of air)."""

_LANES = 32
"""Rows are padded to a multiple of this many voxels, so that loops have no scalar remainder."""

_jit = njit(error_model="numpy")


def cut_view(
    box: np.ndarray,
    start: Sequence[int],
    edge: Sequence[int],
    windows: Sequence[tuple[float, float]],
    size: Size,
    flip: Sequence[bool] = (False, False, False),
    shift: float = 0.0,
) -> np.ndarray:
    """Window and resize a crop, flip it and shift its intensity.

    Args:
        box: int16 HU (D, H, W).
        start: first voxel of the crop in the box's voxels, per axis; outside the box is air.
        edge: voxels of the crop, per axis, at least 1.
        windows: (level, width) in HU, one per channel.
        size: edge of the view, or three (D, H, W).
        flip: whether an axis is reversed.
        shift: added to all channels at the end.

    Returns:
        float32 (C, D, H, W), in [0, 1] before the shift.
    """
    view = np.empty((len(windows), *edges(size)), np.float32)
    geometry = np.array([start, edge, flip], np.int32)
    cut(np.ascontiguousarray(box), geometry, np.float32(shift), bounds(windows), view)
    return view


def bounds(windows: Sequence[tuple[float, float]]) -> np.ndarray:
    """Lower and upper HU of each window (level, width), float32 (C, 2)."""
    return np.array([(level - width / 2, level + width / 2) for level, width in windows], np.float32)


@_jit
def cut(box, geometry, shift, bounds, view):  # type: ignore[no-untyped-def]
    """`cut_view` into `view`; geometry is int32 (start, edge, flip) × (D, H, W), bounds (C, 2)."""
    edge, (_, depth, height, _) = geometry[1], view.shape
    planes = -(-edge[0] // depth) + 1
    rows = -(-edge[1] // height) + 1
    padded = -(-edge[2] // _LANES) * _LANES
    fits = True
    for c in range(len(bounds)):
        low, high = bounds[c]
        fits &= low == np.floor(low) and high == np.floor(high) and low >= -32768 and high <= 32767
        fits &= (high - low) * planes * rows <= 65535
    if fits:
        plane = np.zeros((edge[1], padded), np.int16)
        sums = np.empty((len(bounds), planes, height * padded), np.uint16)
        _cut(box, geometry, shift, bounds.astype(np.int16), plane, sums, view)
    else:
        plane32 = np.zeros((edge[1], padded), np.float32)
        sums32 = np.empty((len(bounds), planes, height * padded), np.float32)
        _cut(box, geometry, shift, bounds, plane32, sums32, view)


@_jit
def _cut(box, geometry, shift, bounds, plane, sums, view):  # type: ignore[no-untyped-def]
    start, edge, flip = geometry
    channels, depth, height, width = view.shape
    first_d, last_d = _bins(edge[0], depth)
    first_h, last_h = _bins(edge[1], height)
    first_w, last_w = _bins(edge[2], width)
    lengths = last_w - first_w
    padded = plane.shape[1]
    # Unsigned: numba tests signed indices for negative values, which count from the end.
    places = ((lengths - 1) * padded + first_w).astype(np.uint32)
    if flip[2]:
        places = places[::-1].copy()
    total, wide = np.empty(padded, sums.dtype), np.zeros((2, padded), np.float32)
    means = np.empty((lengths.max(), padded), np.float32)
    widths = bounds[:, 1].astype(np.float32) - bounds[:, 0].astype(np.float32)
    ready = 0
    for d in range(depth):
        for source in range(max(ready, first_d[d]), last_d[d]):
            _read_plane(box, start, source, edge[2], plane)
            for c in range(channels):
                _sum_over_h(plane, first_h, last_h, bounds[c], sums[c, source % sums.shape[1]])
        ready = last_d[d]
        voxels = (last_d[d] - first_d[d]) * (last_h - first_h)
        for c in range(channels):
            scales = (1 / (widths[c] * voxels)).astype(np.float32)
            to = view[c, depth - 1 - d if flip[0] else d]
            _mean_over_d_and_w(
                sums[c], first_d[d], last_d[d], total, wide, means, places, scales, shift, flip[1], to
            )


@_jit
def _bins(voxels, size):  # type: ignore[no-untyped-def]
    """First voxel and end of each of `size` bins over `voxels` (torch's adaptive pooling rule)."""
    index = np.arange(size)
    return index * voxels // size, ((index + 1) * voxels + size - 1) // size


@_jit
def _read_plane(box, start, source, width, plane):  # type: ignore[no-untyped-def]
    """Read plane `source` of the crop, `width` voxels per row, to `plane`; air outside the box."""
    d = start[0] + source
    left = min(max(-start[2], 0), width)
    right = max(min(box.shape[2] - start[2], width), left)
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
            inside[w] = voxels[w]


@_jit
def _sum_over_h(plane, first, last, bounds, sums):  # type: ignore[no-untyped-def]
    """Sums over each bin of rows of clip(HU, low, high) - low; `sums` is the plane's rows end to end."""
    low, high = bounds
    voxels = plane.shape[1]
    for h in range(first.size):
        total, i = sums[h * voxels : (h + 1) * voxels], first[h]
        if last[h] == i + 1:
            for w in range(voxels):
                total[w] = min(max(plane[i, w], low), high) - low
        elif last[h] == i + 2:
            for w in range(voxels):
                one, two = min(max(plane[i, w], low), high), min(max(plane[i + 1, w], low), high)
                total[w] = (one - low) + (two - low)
        else:
            for w in range(voxels):
                one, two = min(max(plane[i, w], low), high), min(max(plane[i + 1, w], low), high)
                total[w] = (one - low) + (two - low) + (min(max(plane[i + 2, w], low), high) - low)
        for i in range(first[h] + 3, last[h]):
            for w in range(voxels):
                total[w] += min(max(plane[i, w], low), high) - low


@_jit
def _mean_over_d_and_w(sums, first, last, total, wide, means, places, scales, shift, flip, view):  # type: ignore[no-untyped-def]
    """Means over planes [first, last) of the ring `sums` and over each bin of columns, to `view` (H, W).

    `means[k]` holds the means of all k + 1 adjacent columns, one of which is that of a bin of k + 1
    columns: computing all of them vectorises, a loop over bins of varying length does not.
    """
    kept, (height, width), padded = sums.shape[0], view.shape, means.shape[1]
    flat = means.reshape(-1)
    one, two, three = first % kept, (first + 1) % kept, (first + 2) % kept
    for h in range(height):
        row = h * padded
        if last == first + 1:
            for w in range(padded):
                total[w] = sums[one, row + w]
        elif last == first + 2:
            for w in range(padded):
                total[w] = sums[one, row + w] + sums[two, row + w]
        else:
            for w in range(padded):
                total[w] = sums[one, row + w] + sums[two, row + w] + sums[three, row + w]
        for d in range(first + 3, last):
            for w in range(padded):
                total[w] += sums[d % kept, row + w]
        for w in range(padded):
            wide[0, w] = np.float32(total[w])
            wide[1, w] = wide[0, w]
            means[0, w] = wide[0, w] * scales[h] + shift
        for k in range(1, means.shape[0]):
            share = np.float32(scales[h] / (k + 1))
            for w in range(padded - k):
                wide[1, w] += wide[0, w + k]
                means[k, w] = wide[1, w] * share + shift
        to = height - 1 - h if flip else h
        for w in range(width):
            view[to, w] = flat[places[w]]
