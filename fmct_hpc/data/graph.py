"""The DALI graph: from cut views and drawn parameters to augmented views, on the CPU or a GPU."""

import warnings
from typing import Any, Literal

from nvidia.dali import fn, math, pipeline_def
from nvidia.dali.pipeline import DataNode, Pipeline

from fmct_hpc.config import DataConfig
from fmct_hpc.data import smoothing
from fmct_hpc.data.draw import GAMMAED, GLOBAL_VIEWS, SMOOTHED
from fmct_hpc.data.source import Sample, ViewSource

Device = Literal["cpu", "gpu"]

_GAMMA_EPSILON = 1e-7
"""MONAI AdjustContrast's guard against an empty range."""


def build_pipeline(
    source: ViewSource, data: DataConfig, batch_size: int, device: Device, device_id: int | None
) -> Pipeline:
    """A running pipeline whose outputs are the views, float32 (C, S, S, S) each, global ones first.

    The order is the reference's: the source crops, windows and resizes; here follow flips, the
    intensity shift, then smoothing (first global view) or gamma (second). Local views pass through.
    With device "gpu" the same graph copies the cut views to the GPU and does all of this there.

    Args:
        source: called once a sample, in `data.workers` reader processes or, for 0, in this one.
        data: what the source was made with.
        batch_size: samples a run.
        device: where the augmentations run and the outputs lie.
        device_id: the GPU's number, None for "cpu".
    """
    pipeline = _pipeline(
        source,
        data,
        device,
        batch_size=batch_size,
        device_id=device_id,
        num_threads=max(1, data.workers),
        py_num_workers=data.workers,
        py_start_method="spawn",
        prefetch_queue_depth=data.prefetch,
    )
    with warnings.catch_warnings():
        # DALI leaves the sockets it starts readers with to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        pipeline.build()
    return pipeline


@pipeline_def(enable_conditionals=True)
def _pipeline(source: ViewSource, data: DataConfig, device: Device) -> tuple[DataNode, ...]:
    views, (flips, shifts, smooths, kernels, gammas, gamma) = _inputs(source, data)
    # Flags, flips and kernels are arguments of operators, which DALI takes from the CPU.
    if device == "gpu":
        views = [view.gpu() for view in views]
        shifts, gamma = shifts.gpu(), gamma.gpu()
    for v in range(GLOBAL_VIEWS):
        turned = fn.flip(views[v], depthwise=flips[v, 0], vertical=flips[v, 1], horizontal=flips[v, 2])
        views[v] = turned + shifts[v]
    length = 2 * smoothing.radius(data.smooth_sigma[1]) + 1
    smoothed, contrasted = views[SMOOTHED], views[GAMMAED]
    if smooths:
        smoothed = smoothing.smooth(smoothed, kernels, len(data.windows), data.view_size, length)
    if gammas:
        contrasted = _adjust_contrast(contrasted, gamma)
    views[SMOOTHED], views[GAMMAED] = smoothed, contrasted
    return tuple(views)


def _inputs(source: ViewSource, data: DataConfig) -> tuple[list[DataNode], list[DataNode]]:
    """The views and the parameters of Sample as graph nodes."""
    count = GLOBAL_VIEWS + data.local_views
    parameters = len(Sample._fields) - 1
    parallel: dict[str, Any] = {}
    if data.workers:
        view_bytes = len(data.windows) * data.view_size**3 * 4
        parallel = {
            "parallel": True,
            "prefetch_queue_depth": data.prefetch,
            # Shared memory for all outputs of a sample; where it is too little it grows, at a price.
            "bytes_per_sample_hint": count * view_bytes + 2**16,
        }
    outputs = fn.external_source(
        source=source,
        num_outputs=count + parameters,
        batch=False,
        layout=["CDHW"] * count + [""] * parameters,
        **parallel,
    )
    return list(outputs[:count]), list(outputs[count:])


def _adjust_contrast(view: DataNode, gamma: DataNode) -> DataNode:
    """((x - min) / (range + 1e-7))^gamma · range + min over all channels (MONAI AdjustContrast)."""
    least = fn.reductions.min(view)
    extent = fn.reductions.max(view) - least
    return math.pow((view - least) / (extent + _GAMMA_EPSILON), gamma) * extent + least
