"""The Gaussian smoothing of fmct_hpc.data.smoothing, in place."""

import numpy as np
from numba import types
from numba.extending import intrinsic

from shards.compiled import njit

_jit = njit(error_model="numpy")


@intrinsic
def _fused(_, factor, tap, sum_):  # type: ignore[no-untyped-def]
    """factor · tap + sum, rounded once to float32, like DALI's filter."""

    def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), code


@_jit
def smooth(view, kernels):  # type: ignore[no-untyped-def]
    """Convolve `view`, float32 (C, D, H, W), with `kernels`, float32 (3, 2·radius + 1), zeros outside.

    Along D, then H, then W, rounded to float32 after each; taps are summed in order.
    """
    channels, depth, height, width = view.shape
    length = kernels.shape[1]
    radius = length // 2
    ring = np.zeros((length, height * width), np.float32)
    plane = np.empty((height, width), np.float32)
    rows = np.empty((height, width), np.float32)
    padded = np.zeros(width + 2 * radius, np.float32)
    for c in range(channels):
        for d in range(depth + radius):
            if d < depth:
                ring[d % length] = view[c, d].reshape(-1)
            to = d - radius
            if to < 0:
                continue
            plane[:] = 0
            for tap in range(length):
                source = to + tap - radius
                if 0 <= source < depth:
                    _add(ring[source % length], kernels[0, tap], plane.reshape(-1))
            rows[:] = 0
            for h in range(height):
                for tap in range(length):
                    source = h + tap - radius
                    if 0 <= source < height:
                        _add(plane[source], kernels[1, tap], rows[h])
            for h in range(height):
                padded[radius : radius + width] = rows[h]
                line = view[c, to, h]
                line[:] = 0
                for tap in range(length):
                    _add(padded[tap : tap + width], kernels[2, tap], line)


@_jit
def _add(values, tap, sums):  # type: ignore[no-untyped-def]
    """Add values · tap to sums."""
    if tap == 0:
        return
    for i in range(sums.size):
        sums[i] = _fused(values[i], tap, sums[i])
