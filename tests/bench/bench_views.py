"""Views a second: `OMP_NUM_THREADS=1 python tests/bench/bench_views.py`.

Every row makes the recipe's 2 global and 2 local views of 96³ from one real head of 176×220×220 at
1 mm (`bench_shards.head`). The reference's MONAI transforms are timed where MONAI is installed.
CPU time is this process's, all threads together: it compares work per core even on a busy machine.
"""

import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench_shards import head, make_record
from torch.nn import functional

from fmct_hpc.config import DataConfig
from fmct_hpc.data.draw import draw_views
from fmct_hpc.data.field import origin
from fmct_hpc.data.kernel import cut_view
from fmct_hpc.data.loader import Loader
from shards import ShardWriter, finish_dataset

SPACING = (1.0, 1.0, 1.0)
FIELD = 224
VIEWS = 4
CALLS = 8


def main() -> None:
    torch.set_num_threads(1)
    volume = head()
    data = DataConfig(path=Path("unused"))
    print(f"{'':52s} {'CPU ms/sample':>14s} {'views/CPU s':>12s} {'wall ms/sample':>15s}")
    if importlib.util.find_spec("monai"):
        row("reference's MONAI transforms of its cached float16", monai_sample(volume, data))
    row("crops: torch, windows then area", torch_sample(volume, data))
    row("crops: fused kernel", kernel_sample(volume, data))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "zarr"
        with ShardWriter(path, "shard", "zarr") as shard:
            shard.add(make_record(volume), volume)
        finish_dataset(path, "zarr", ["shard"])
        local = data.model_copy(update={"path": path, "workers": 0})
        loader = Loader(local, seed=0, global_batch=1, micro_batch=1)
        row(
            "crops: fused kernel, and reading the zarr shard", lambda number: loader._source.sample(number, 0)
        )
        loader.close()
        for workers in (0, 1):
            data = data.model_copy(update={"path": path, "workers": workers})
            loader = Loader(data, seed=0, global_batch=4, micro_batch=4)
            batches = iter(loader)
            for _ in range(data.prefetch + 1):
                next(batches)
            row(f"loader, all augmentations, {workers} reader processes", lambda _: next(batches), samples=4)  # noqa: B023
            loader.close()


def row(name: str, make: Callable[[int], object], samples: int = 1) -> None:
    """Time `make(number)`, which makes the views of `samples` volumes; the best of three rounds."""
    make(0)
    rounds = []
    for _ in range(3):
        cpu, wall = time.process_time(), time.perf_counter()
        for number in range(CALLS):
            make(number)
        done = CALLS * samples
        rounds.append(((time.process_time() - cpu) / done, (time.perf_counter() - wall) / done))
    cpu, wall = min(rounds)
    print(f"{name:52s} {cpu * 1e3:14.1f} {VIEWS / cpu:12.1f} {wall * 1e3:15.1f}", flush=True)


def windowed_field(volume: np.ndarray, data: DataConfig) -> torch.Tensor:
    """What the reference caches: (C, 224, 224, 224) float16 in [0, 1]."""
    pad = [((FIELD - n) // 2, FIELD - n - (FIELD - n) // 2) for n in volume.shape]
    hu = torch.from_numpy(np.pad(volume, pad, constant_values=-1000).astype(np.float32))
    return torch.stack([((hu - (lv - w / 2)) / w).clamp(0, 1) for lv, w in data.windows]).half()


def torch_sample(volume: np.ndarray, data: DataConfig) -> Callable[[int], object]:
    start = np.array(origin(volume.shape, (FIELD,) * 3))

    def make(number: int) -> list[torch.Tensor]:
        made = []
        for view in draw_views(data, SPACING, 0, number, 0):
            first = np.maximum(start + view.start, 0)
            box = tuple(slice(f, f + e) for f, e in zip(first, view.edge, strict=True))
            hu = torch.from_numpy(volume[box].astype(np.float32))
            channels = torch.stack([((hu - (lv - w / 2)) / w).clamp(0, 1) for lv, w in data.windows])
            made.append(functional.interpolate(channels[None], size=(data.view_size,) * 3, mode="area"))
        return made

    return make


def kernel_sample(volume: np.ndarray, data: DataConfig) -> Callable[[int], object]:
    start = np.array(origin(volume.shape, (FIELD,) * 3))
    return lambda number: [
        cut_view(volume, start + view.start, view.edge, data.windows, data.view_size)
        for view in draw_views(data, SPACING, 0, number, 0)
    ]


def monai_sample(volume: np.ndarray, data: DataConfig) -> Callable[[int], object]:
    from monai import transforms as mt

    cached = windowed_field(volume, data).numpy()
    size, sigma = (data.view_size,) * 3, data.smooth_sigma
    load = [mt.CastToType(dtype=np.float32), mt.ResizeWithPadOrCrop((FIELD,) * 3)]
    flips = [mt.RandFlip(prob=data.flip_probability, spatial_axis=axis) for axis in range(3)]
    crop = [mt.RandSpatialCrop(112, random_center=True, random_size=True), mt.Resize(size)]
    shift = [mt.RandShiftIntensity(offsets=data.shift, prob=data.shift_probability)]
    smooth = mt.RandGaussianSmooth(sigma_x=sigma, sigma_y=sigma, sigma_z=sigma, prob=data.smooth_probability)
    gamma = mt.RandAdjustContrast(gamma=data.gamma, prob=data.gamma_probability)
    small = mt.RandSpatialCrop(64, max_roi_size=112, random_center=True, random_size=True)
    chains = [
        mt.Compose([*load, *crop, *flips, *shift, smooth]),
        mt.Compose([*load, *crop, *flips, *shift, gamma]),
        *[mt.Compose([*load, mt.CenterSpatialCrop((192,) * 3), small, mt.Resize(size)])] * 2,
    ]
    return lambda _: [chain(cached) for chain in chains]


if __name__ == "__main__":
    main()
