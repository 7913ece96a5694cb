"""A view as one DALI operator of the CPU: compiled code that DALI's threads call, no Python in between."""

from functools import lru_cache

import numba
import numpy as np
from numba import types
from nvidia.dali.pipeline import DataNode
from nvidia.dali.plugin.numba import NumbaFunction, address_as_void_pointer  # type: ignore[attr-defined]
from nvidia.dali.types import DALIDataType

from fmct_hpc.data.contrast import adjust_contrast
from fmct_hpc.data.kernel import cut
from fmct_hpc.data.smooth import smooth
from fmct_hpc.fields import Edges
from shards.compiled import cfunc

_OUTPUTS = [DALIDataType.FLOAT]
_INPUTS = [DALIDataType.INT16, DALIDataType.INT32, *[DALIDataType.FLOAT] * 4]
_INPUT_AXES = [3, 2, 0, 2, 2, 0]

_POINTER, _COUNT = types.uint64, types.int32
_RUN = types.void(*[_POINTER, _POINTER, _POINTER, _COUNT] * 2)
_SETUP = types.void(*[_POINTER, _POINTER, _COUNT] * 2, _COUNT)


def view_on_cpu(
    boxes: DataNode,
    geometry: DataNode,
    shift: DataNode,
    bounds: DataNode,
    kernels: DataNode,
    gamma: DataNode,
    channels: int,
    size: Edges,
) -> DataNode:
    """`kernel.cut`, then smoothing and contrast where drawn, in a graph: float32 (C, *size) a sample.

    kernels: float32 (3, taps), zeros where the sample is not smoothed; gamma: 0 where it has none.
    """
    operator = _View(_run, _OUTPUTS, _INPUTS, [4], _INPUT_AXES, setup_fn=_setup(channels, size), device="cpu")
    view: DataNode = operator(boxes, geometry, shift, bounds, kernels, gamma)
    return view


class _View(NumbaFunction):
    """DALI's operator, which would compile what it is given for seconds, with what is compiled already."""

    def _get_run_fn_cpu(self, run_fn, *_):  # type: ignore[no-untyped-def]
        return run_fn.address

    def _get_setup_fn_cpu(self, setup_fn):  # type: ignore[no-untyped-def]
        return setup_fn.address


@numba.njit
def _integers(pointer, count):  # type: ignore[no-untyped-def]
    return numba.carray(address_as_void_pointer(pointer), count, np.int64)


@cfunc(_RUN)
def _run(outputs, output_shapes, _, n_outputs, inputs, input_shapes, __, n_inputs):  # type: ignore[no-untyped-def]
    """One sample: arrays of the addresses of the outputs and inputs, and of those of their shapes."""
    (to,) = _integers(outputs, 1)
    box, geometry, shift, bounds, kernels, gamma = _integers(inputs, 6)
    shapes = _integers(input_shapes, 6)
    d, h, w = _integers(shapes[0], 3)
    taps = _integers(shapes[4], 2)[1]
    channels, view_d, view_h, view_w = _integers(_integers(output_shapes, 1)[0], 4)
    view = numba.carray(address_as_void_pointer(to), (channels, view_d, view_h, view_w), np.float32)
    cut(
        numba.carray(address_as_void_pointer(box), (d, h, w), np.int16),
        numba.carray(address_as_void_pointer(geometry), (3, 3), np.int32),
        numba.carray(address_as_void_pointer(shift), 1, np.float32)[0],
        numba.carray(address_as_void_pointer(bounds), (channels, 2), np.float32),
        view,
    )
    kernel = numba.carray(address_as_void_pointer(kernels), (3, taps), np.float32)
    if kernel[0, taps // 2] > 0:
        smooth(view, kernel)
    exponent = numba.carray(address_as_void_pointer(gamma), 1, np.float32)[0]
    if exponent > 0:
        adjust_contrast(view, exponent)


@lru_cache
def _setup(channels: int, size: Edges):  # type: ignore[no-untyped-def]
    view_d, view_h, view_w = size

    @numba.cfunc(_SETUP)
    def setup(output_shapes, _, n_outputs, input_shapes, __, n_inputs, samples):  # type: ignore[no-untyped-def]
        for shape in _integers(output_shapes, samples):
            view = _integers(shape, 4)
            view[0], view[1], view[2], view[3] = channels, view_d, view_h, view_w

    return setup
