"""The Triton kernel for views compared with the CPU's: equality, and milliseconds per volume."""

import numpy as np
import torch
from measure import Measurement

from fmct_hpc.data.config import DataConfig
from fmct_hpc.data.draw import draw_views
from fmct_hpc.data.field import origin, voxels
from fmct_hpc.data.kernel import bounds, cut

SPACING = (1.0, 1.0, 1.0)


def measure(m: Measurement) -> None:
    """One row for the difference, and one per batch size for the time."""
    data = DataConfig.model_validate({"path": "unused", **({"view_size": 24} if m.dry else {})})
    rng = np.random.default_rng(0)
    shape = (150, 200, 160)
    boxes = [rng.integers(-1024, 2500, shape).astype(np.int16) for _ in range(2 if m.dry else 16)]
    geometry, shifts = zip(*(_drawn(data, shape, sample) for sample in range(len(boxes))), strict=True)
    limits, sizes = bounds(data.windows), data.view_sizes
    on_cpu = [[np.empty((len(limits), *size), np.float32) for size in sizes] for _ in boxes]

    def cut_all() -> None:
        for box, where, shift, made in zip(boxes, geometry, shifts, on_cpu, strict=True):
            for view, volume in enumerate(made):
                cut(box, where[view], shift[view], limits, volume)

    ms = m.ms(cut_all)
    m.add(kernel="numba, one CPU thread", volumes=len(boxes), ms_a_volume=ms / len(boxes), difference=0.0)
    if m.dry:  # the kernel on a CPU is tests/numerics/test_views.py's, by Triton's interpreter
        return
    from fmct_hpc.data.cut_gpu import cut_on_gpu

    def sent(arrays: list[np.ndarray]) -> list[torch.Tensor]:
        return [torch.from_numpy(array).to(m.device) for array in arrays]

    inputs = (sent(boxes), sent(list(geometry)), sent(list(shifts)), sent([limits] * len(boxes)))
    made = cut_on_gpu(*inputs, sizes)
    differences = [
        float((made[view][sample].cpu() - torch.from_numpy(on_cpu[sample][view])).abs().max())
        for sample in range(len(boxes))
        for view in range(len(sizes))
    ]
    ms = m.ms(lambda: cut_on_gpu(*inputs, sizes))
    m.add(
        kernel="Triton", volumes=len(boxes), ms_a_volume=ms / len(boxes), greatest_difference=max(differences)
    )


def _drawn(data: DataConfig, shape: tuple[int, int, int], sample: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = draw_views(data, SPACING, 0, 0, sample)
    first = np.array(origin(shape, voxels(data.field_mm, SPACING)))
    where = [(first + view.start, view.edge, view.flip) for view in drawn]
    return np.array(where, np.int32), np.array([view.shift for view in drawn], np.float32)
