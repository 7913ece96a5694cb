"""The kernel on a GPU: same results as fmct_hpc.data.kernel, by one Triton program per row of a view."""

from collections.abc import Sequence
from itertools import groupby

import torch
import triton
import triton.language as tl
from torch import Tensor

from fmct_hpc.data.kernel import AIR_HU
from fmct_hpc.fields import Edges


def cut_on_gpu(
    boxes: list[Tensor],
    geometry: list[Tensor],
    shifts: list[Tensor],
    bounds: list[Tensor],
    sizes: Sequence[Edges],
) -> tuple[list[Tensor], ...]:
    """`kernel.cut` for all views of a batch.

    Args:
        boxes: int16 HU (D, H, W) of each sample.
        geometry: int32 (V, 3, 3) of each: start, edge, flip of each view.
        shifts: float32 (V,) of each.
        bounds: float32 (C, 2) of each: the windows' lower and upper HU.
        sizes: edges (D, H, W) of each view; consecutive views of one size share a launch.

    Returns:
        For each view a list of float32 (C, D, H, W), one per sample, on the boxes' device.
    """
    samples = []
    for box, where, shift, window in zip(boxes, geometry, shifts, bounds, strict=True):
        made: list[Tensor] = []
        for size, same in groupby(sizes):
            first, count, channels = len(made), len(list(same)), len(window)
            views = torch.empty((count, channels, *size), device=box.device)
            cut_row[(size[0], size[1], count * channels)](
                *(box, where[first:], shift[first:], window, views, *box.shape, channels),
                VIEW_D=size[0],
                VIEW_H=size[1],
                VIEW_W=size[2],
                LANES=triton.next_power_of_2(size[2]),
                AIR=AIR_HU,
                enable_fp_fusion=False,  # to round like the CPU
            )
            made.extend(views)
        samples.append(made)
    return tuple([sample[view] for sample in samples] for view in range(len(samples[0])))


@triton.jit(do_not_specialize=["depth", "height", "width"])
def cut_row(  # type: ignore[no-untyped-def]
    box,
    geometry,
    shifts,
    bounds,
    views,
    depth,
    height,
    width,
    channels,
    VIEW_D: tl.constexpr,  # noqa: N803
    VIEW_H: tl.constexpr,  # noqa: N803
    VIEW_W: tl.constexpr,  # noqa: N803
    LANES: tl.constexpr,  # noqa: N803
    AIR: tl.constexpr,  # noqa: N803
):
    """Row (d, h) of one channel of one view: each lane sums the clipped HU of its bin."""
    d, h, number = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    view, channel = number // channels, number % channels
    where = geometry + view * 9
    start_d, start_h, start_w = tl.load(where), tl.load(where + 1), tl.load(where + 2)
    edge_d, edge_h, edge_w = tl.load(where + 3), tl.load(where + 4), tl.load(where + 5)
    flip_d, flip_h, flip_w = tl.load(where + 6), tl.load(where + 7), tl.load(where + 8)
    low, high = tl.load(bounds + channel * 2), tl.load(bounds + channel * 2 + 1)
    first_d, last_d = d * edge_d // VIEW_D, ((d + 1) * edge_d + VIEW_D - 1) // VIEW_D
    first_h, last_h = h * edge_h // VIEW_H, ((h + 1) * edge_h + VIEW_H - 1) // VIEW_H
    lane = tl.arange(0, LANES)
    first_w, last_w = lane * edge_w // VIEW_W, ((lane + 1) * edge_w + VIEW_W - 1) // VIEW_W
    total = tl.zeros((LANES,), tl.float32)
    for z in range(start_d + first_d, start_d + last_d):
        for y in range(start_h + first_h, start_h + last_h):
            row = (z * height + y) * width
            inside = (z >= 0) & (z < depth) & (y >= 0) & (y < height)
            for step in range(0, (edge_w + VIEW_W - 1) // VIEW_W + 1):
                x = start_w + first_w + step
                in_bin = (first_w + step < last_w) & (lane < VIEW_W)
                there = inside & (x >= 0) & (x < width) & in_bin
                hu = tl.load(box + row + x, mask=there, other=AIR).to(tl.float32)
                clipped = tl.minimum(tl.maximum(hu, low), high) - low
                total += tl.where(in_bin, clipped, 0.0)
    voxels = (last_d - first_d) * (last_h - first_h)
    share = 1.0 / (last_w - first_w).to(tl.float32)
    mean = total * share * (1.0 / ((high - low) * voxels)) + tl.load(shifts + view)
    to_d = tl.where(flip_d != 0, VIEW_D - 1 - d, d)
    to_h = tl.where(flip_h != 0, VIEW_H - 1 - h, h)
    to_w = tl.where(flip_w != 0, VIEW_W - 1 - lane, lane)
    place = ((number.to(tl.int64) * VIEW_D + to_d) * VIEW_H + to_h) * VIEW_W + to_w
    tl.store(views + place, mean, mask=lane < VIEW_W)
