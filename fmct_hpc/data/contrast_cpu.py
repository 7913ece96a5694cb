"""MONAI's AdjustContrast, in place.

((x - min) / (range + 1e-7))^gamma · range + min, over all channels together, in float32.
"""

import ctypes
import ctypes.util

import numpy as np
from numba import types

from shards.compiled import c_function, njit

EPSILON = np.float32(1e-7)
"""MONAI's guard against an empty range."""

_RUN = 32
"""Voxels per run: those of air and bone are mostly equal, and then need one power per run."""

# The C library's, which DALI's operator calls too: bit-identical to fmct_hpc.data.graph on the CPU.
_power = c_function(
    ctypes.CDLL(ctypes.util.find_library("m")), "powf", types.float32, types.float32, types.float32
)
_jit = njit(error_model="numpy")


@_jit
def adjust_contrast(view, gamma):  # type: ignore[no-untyped-def]
    """Raise the voxels of `view`, float32 in C order, to the power `gamma`, float32, within their range."""
    flat = view.reshape(-1)
    low, high = _range(flat)
    extent = high - low
    scale = extent + EPSILON
    for start in range(0, flat.size, _RUN):
        run = flat[start : start + _RUN]
        first, equal = run[0], True
        for i in range(run.size):
            equal &= run[i] == first
        if equal:
            run[:] = _power((first - low) / scale, gamma) * extent + low
            continue
        for i in range(run.size):
            run[i] = _power((run[i] - low) / scale, gamma) * extent + low


@_jit
def _range(flat):  # type: ignore[no-untyped-def]
    """Minimum and maximum of the values, by lanes, so that the loop vectorises."""
    low, high = np.full(_RUN, flat[0]), np.full(_RUN, flat[0])
    for start in range(0, flat.size, _RUN):
        run = flat[start : start + _RUN]
        for i in range(run.size):
            x = run[i]
            low[i] = x if x < low[i] else low[i]
            high[i] = x if x > high[i] else high[i]
    return low.min(), high.max()
