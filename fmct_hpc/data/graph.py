"""The DALI graph: from boxes of voxels and drawn parameters to augmented views, on the CPU or a GPU."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nvidia.dali import fn, math, pipeline_def, types
from nvidia.dali.pipeline import DataNode, Pipeline
from torch.utils import dlpack

from fmct_hpc.data import smoothing
from fmct_hpc.data.config import DataConfig
from fmct_hpc.data.contrast_cpu import EPSILON
from fmct_hpc.data.draw import SMOOTHED
from fmct_hpc.data.kernel import bounds
from fmct_hpc.data.smooth_dali import smooth
from fmct_hpc.data.source import Sample
from fmct_hpc.data.squeezed_field import cut_squeezed
from fmct_hpc.data.view_cpu import view_on_cpu
from fmct_hpc.fields import edges

Device = Literal["cpu", "gpu"]


def build_pipeline(
    source: Callable[[int], list[Sample]],
    data: DataConfig,
    batch_size: int,
    device: Device,
    device_id: int | None,
    places: Callable[[int], np.ndarray],
) -> Pipeline:
    """Build the pipeline. Its outputs are the views, float32 (C, D, H, W) each, global ones first.

    If `in_place`, views are written to `places`, and each output is only a marker. D, H and W are those of
    `DataConfig.view_sizes`. The last outputs are `Sample.taken` and `Sample.skipped`, on the CPU. The order
    is the reference's: crop, windows, resize, flips and intensity shift, all in one kernel, then smoothing
    (first global view) or gamma (second). On the CPU, one operator makes a view. With device "gpu" the boxes
    are copied to the GPU, and all of this is done there.

    Args:
        source: returns the samples of a micro-batch, by its number since the start; called in order.
        data: the source's configuration.
        batch_size: samples per micro-batch.
        device: of the views and of all computation after reading.
        device_id: the GPU's number, None for "cpu".
        places: called once per micro-batch if `in_place`; returns uint64 (B, V, 4): for each view the address
            of its memory, which must outlive the pipeline, and its D, H, W.
    """

    def members(iteration: int) -> tuple[list[np.ndarray], ...]:
        return tuple(map(list, zip(*source(iteration), strict=True)))

    # With conditionals DALI rewrites each `if` (0.7 s of CPU time), so that `_augmented` smooths or contrasts
    # only the samples that draw it.
    pipeline = _pipeline(
        members,
        lambda iteration: list(places(iteration)),
        data,
        device,
        batch_size=batch_size,
        device_id=device_id,
        num_threads=max(1, data.workers),
        prefetch_queue_depth=data.prefetch,
        enable_conditionals=not in_place(data, device),
    )
    _remove_rewritten()
    pipeline.build()
    return pipeline


def in_place(data: DataConfig, device: Device) -> bool:
    """Whether views are written to the caller's memory instead of DALI's."""
    return device == "cpu" and data.field == "isotropic"


def _remove_rewritten() -> None:
    """Remove the modules of rewritten functions that DALI writes to the temporary directory.

    They have been imported. DALI removes only their sources, and only at a regular exit.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("__autograph_generated_file"):
            for file in filter(None, (module.__file__, module.__cached__)):
                Path(file).unlink(missing_ok=True)


@pipeline_def
def _pipeline(
    members: Callable[[int], tuple[list[np.ndarray], ...]],
    places: Callable[[int], list[np.ndarray]],
    data: DataConfig,
    device: Device,
) -> tuple[DataNode, ...]:
    sample: Any = Sample(*_inputs(members))  # of graph nodes instead of arrays
    if in_place(data, device):
        views = _made(sample, fn.external_source(source=places), data)
    else:
        views = _augmented(sample, _cut(sample, data, device), data, device)
    return *views, fn.copy(sample.taken), fn.copy(sample.skipped)


def _made(sample: Any, places: Any, data: DataConfig) -> list[DataNode]:
    """Markers that the views are written, by one CPU operator each."""
    windows = types.Constant(bounds(data.windows), device="cpu")
    tones = fn.stack(sample.shifts, sample.gammas, axis=1)
    return [
        view_on_cpu(sample.box, sample.geometry[v], windows, sample.kernels[v], tones[v], places[v])
        for v in range(data.views)
    ]


def _augmented(sample: Any, views: list[DataNode], data: DataConfig, device: Device) -> list[DataNode]:
    """The views, one of them smoothed and one contrasted if drawn, by DALI's operators.

    On the CPU they are bit-identical to fmct_hpc.data.smooth_cpu and .contrast_cpu.
    """
    # DALI takes arguments of operators, such as conditions and kernels, from the CPU.
    smoothed, kernels = views[SMOOTHED], sample.kernels[SMOOTHED]
    if fn.reductions.max(kernels) > 0:
        length = 2 * smoothing.radius(data.smooth_sigma[1]) + 1
        shape = len(data.windows), *edges(data.view_size)
        smoothed = smooth(smoothed, kernels, shape, length)
    views[SMOOTHED] = smoothed
    last = data.global_views - 1
    contrasted, gamma = views[last], sample.gammas[last]
    if gamma > 0:
        contrasted = adjust_contrast(contrasted, gamma.gpu() if device == "gpu" else gamma)
    views[last] = contrasted
    return views


def _inputs(members: Callable[[int], tuple[list[np.ndarray], ...]]) -> list[DataNode]:
    """The members of Sample as graph nodes."""
    # No copies: a sample's arrays are not reused, and DALI keeps them alive until its operators have run.
    return list(fn.external_source(source=members, num_outputs=len(Sample._fields), no_copy=True))


def _cut(sample: Any, data: DataConfig, device: Device) -> list[DataNode]:
    """Views on a GPU, or of the squeezed field: cropped, windowed, resized, flipped, shifted."""
    limits, sizes = bounds(data.windows), data.view_sizes
    windows = types.Constant(limits, device=device)
    cut: Callable[..., Any] = partial(cut_squeezed, field_size=round(data.field_mm), sizes=sizes)
    if data.field == "isotropic":
        from fmct_hpc.data.cut_gpu import cut_on_gpu  # needs Triton, a part of PyTorch for CUDA

        cut = partial(cut_on_gpu, sizes=sizes)
    arrays = [sample.box, sample.geometry, sample.shifts]
    if device == "gpu":
        arrays = [array.gpu() for array in arrays]
    stream = torch.cuda.Stream(Pipeline.current().device_id) if device == "gpu" else None
    views: Any = fn.dl_tensor_python_function(
        *(*arrays, windows), function=partial(_in_torch, cut, stream), num_outputs=len(sizes), device=device
    )
    return list(views)


def _in_torch(
    cut: Callable[..., Any], stream: torch.cuda.Stream | None, *inputs: list[Any]
) -> tuple[list[Any], ...]:
    """Call `cut` with the batch's DLPack capsules as tensors; DALI's own stream is idle meanwhile."""
    tensors = [[dlpack.from_dlpack(capsule) for capsule in capsules] for capsules in inputs]
    with torch.cuda.stream(stream):
        views = cut(*tensors)
    if stream:
        stream.synchronize()
    return tuple([dlpack.to_dlpack(view) for view in batch] for batch in views)


def adjust_contrast(view: DataNode, gamma: DataNode) -> DataNode:
    """((x - min) / (range + 1e-7))^gamma · range + min over all channels (MONAI AdjustContrast)."""
    low = fn.reductions.min(view)
    extent = fn.reductions.max(view) - low
    return math.pow((view - low) / (extent + EPSILON), gamma) * extent + low
