"""A view by one DALI operator on the CPU: compiled code that DALI's threads call without Python.

It writes to the caller's memory, since copying DALI's outputs would take longer than the smoothing.
"""

import numba
import numpy as np
from numba import types
from nvidia.dali.pipeline import DataNode
from nvidia.dali.plugin.numba import NumbaFunction, address_as_void_pointer  # type: ignore[attr-defined]
from nvidia.dali.types import DALIDataType

from fmct_hpc.data.contrast_cpu import adjust_contrast
from fmct_hpc.data.kernel import cut
from fmct_hpc.data.smooth_cpu import smooth
from shards.compiled import cfunc

_OUTPUTS = [DALIDataType.UINT8]
_INPUTS = [DALIDataType.INT16, DALIDataType.INT32, *[DALIDataType.FLOAT] * 3, DALIDataType.UINT64]
_INPUT_AXES = [3, 2, 2, 2, 1, 1]
"""Axes of the inputs; DALI allows such an operator six inputs."""

_POINTER, _COUNT = types.uint64, types.int32
_RUN = types.void(*[_POINTER, _POINTER, _POINTER, _COUNT] * 2)
_SETUP = types.void(*[_POINTER, _POINTER, _COUNT] * 2, _COUNT)


def view_on_cpu(
    boxes: DataNode, geometry: DataNode, bounds: DataNode, kernels: DataNode, tone: DataNode, place: DataNode
) -> DataNode:
    """`kernel.cut`, then smoothing and contrast where drawn, in a graph.

    Args:
        boxes, geometry, bounds: as in `kernel.cut`.
        kernels: float32 (3, taps); zeros if the sample is not smoothed.
        tone: float32 (2,): the intensity shift, and the gamma, 0 if unchanged.
        place: uint64 (4,): address of memory for the view, float32 in C order, and its D, H, W.

    Returns:
        A marker that the view is written.
    """
    operator = _View(_run, _OUTPUTS, _INPUTS, [1], _INPUT_AXES, setup_fn=_setup, device="cpu")
    done: DataNode = operator(boxes, geometry, bounds, kernels, tone, place)
    return done


class _View(NumbaFunction):
    """DALI's operator with functions that are already compiled, which it would compile again for seconds."""

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
    box, geometry, bounds, kernels, tone, place = _integers(inputs, 6)
    shapes = _integers(input_shapes, 6)
    d, h, w = _integers(shapes[0], 3)
    channels, taps = _integers(shapes[2], 2)[0], _integers(shapes[3], 2)[1]
    address, view_d, view_h, view_w = _integers(place, 4)
    view = numba.carray(address_as_void_pointer(address), (channels, view_d, view_h, view_w), np.float32)
    shift, gamma = numba.carray(address_as_void_pointer(tone), 2, np.float32)
    cut(
        numba.carray(address_as_void_pointer(box), (d, h, w), np.int16),
        numba.carray(address_as_void_pointer(geometry), (3, 3), np.int32),
        shift,
        numba.carray(address_as_void_pointer(bounds), (channels, 2), np.float32),
        view,
    )
    kernel = numba.carray(address_as_void_pointer(kernels), (3, taps), np.float32)
    if kernel[0, taps // 2] > 0:
        smooth(view, kernel)
    if gamma > 0:
        adjust_contrast(view, gamma)


@cfunc(_SETUP)
def _setup(output_shapes, _, n_outputs, input_shapes, __, n_inputs, samples):  # type: ignore[no-untyped-def]
    for shape in _integers(output_shapes, samples):
        _integers(shape, 1)[0] = 1
