"""Views per second: `OMP_NUM_THREADS=1 python tests/bench/bench_views.py`.

Every row makes the recipe's 2 global and 2 local views of 96³ of one real head of 176×220×220 at 1 mm
(`bench_shards.head`), rows interleaved, minimum of `--rounds`. CPU time is that of this process and its
readers, all threads together, which compares work per core even on a busy machine. The reference is
NYUMedML/headCT_foundation's MONAI chain, from its cached field in memory, from the cache file of MONAI's
PersistentDataset, and from NIfTI.
"""

import argparse
import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import nibabel
import numpy as np
import pyarrow as pa
import torch
from bench_shards import head
from markdown_table import heading, row
from monai import transforms as mt
from shard_samples import FORMATS, make_key, make_record
from tiny import parsed
from torch.nn import functional

from fmct_hpc.data.config import DataConfig
from fmct_hpc.data.draw import draw_views
from fmct_hpc.data.field import origin
from fmct_hpc.data.kernel import cut_view
from fmct_hpc.data.loader import Loader
from fmct_hpc.data.order import Order, Share
from fmct_hpc.data.source import ViewSource
from shards import Dataset, ShardWriter, finish_dataset
from shards.info import DatasetInfo

SPACING = (1.0, 1.0, 1.0)
WINDOWS = ((40, 80), (80, 200), (600, 2800))
FIELD = 224
VIEWS = 4

Row = Callable[[int], object]


class InMemory(Dataset):
    """A dataset that has read its one volume already."""

    volume: np.ndarray

    def read_box(self, i: int, start: tuple[int, ...], stop: tuple[int, ...]) -> np.ndarray:
        return self.volume[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=24, help="volumes of a row in a round")
    parser.add_argument("--shape", type=int, nargs=3, default=[176, 220, 220])
    parser.add_argument("--view-size", type=int, default=96)
    parser.add_argument("--readers", type=int, nargs="+", default=[0, 1, 2, 4])
    small = {"rounds": 1, "samples": 4, "shape": [40, 40, 40], "view_size": 16, "readers": [0]}
    options = parsed(parser, arguments, **small)
    torch.set_num_threads(1)
    volume = head(options.shape)
    data = DataConfig(path=Path("unused"), view_size=options.view_size)
    with tempfile.TemporaryDirectory() as folder:
        for format in FORMATS:
            with ShardWriter(Path(folder) / format, "shard", format) as shard:
                shard.add(make_record(volume, make_key(0)), volume)
            finish_dataset(Path(folder) / format, format, ["shard"])
        table(Path(folder), volume, data, options.rounds, options.samples)
        readers(Path(folder), data, options.readers, options.samples)


def table(folder: Path, volume: np.ndarray, data: DataConfig, rounds: int, samples: int) -> None:
    """Work per core, in one process; `samples` volumes per row and round, a sixth for slow rows."""
    zarr = data.model_copy(update={"path": folder / "zarr", "workers": 0, "prefetch": 1})
    tar = zarr.model_copy(update={"path": folder / "webdataset"})
    InMemory.volume = volume
    with patch("fmct_hpc.data.loader.open_dataset", lambda data: InMemory(data.path, *facts(data.path))):
        memory = Loader(zarr, seed=0, global_batch=4, micro_batch=4)
    assert isinstance(data.view_size, int)
    smaller = zarr.model_copy(update={"local_view_size": data.view_size // 2})
    from_zarr, from_tar, of_48 = (
        Loader(config, seed=0, global_batch=4, micro_batch=4) for config in (zarr, tar, smaller)
    )
    field, cached = windowed_field(volume, data).numpy(), folder / "cached.pt"
    torch.save(torch.from_numpy(field), cached)
    nifti = folder / "head.nii.gz"
    nibabel.save(nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.eye(4)), nifti)
    chain = reference(data)
    rows: dict[str, tuple[Row, int]] = {
        "reference: MONAI, cached field in memory": (lambda _: chain(field), samples // 6 or 1),
        "reference: MONAI, cached file (float16, 67 MB)": (
            lambda _: chain(torch.load(cached).numpy()),
            samples // 6 or 1,
        ),
        "reference: MONAI, NIfTI": (lambda _: chain(from_nifti(nifti)), 1),
        "crops only, memory: torch, windows then area": (torch_sample(volume, data), samples // 6 or 1),
        "crop, windows, area, flips, shift, memory: kernel": (kernel_sample(volume, data), samples),
        "loader, all augmentations, memory": (batches(memory), samples),
        "loader, all augmentations, zarr shard": (batches(from_zarr), samples),
        "loader, all augmentations, webdataset shard": (batches(from_tar), samples),
        f"loader, all augmentations, zarr, local views of {data.view_size // 2}³": (batches(of_48), samples),
        "ceiling: bare read of the boxes, zarr": (reads(from_zarr.dataset, data), samples),
        "ceiling: bare read, and memcpy of the views": (reads(from_zarr.dataset, data, copied=True), samples),
    }
    best = dict.fromkeys(rows, float("inf"))
    for make, _ in rows.values():
        make(0)
    for _ in range(rounds):
        for name, (make, count) in rows.items():
            began = time.process_time()
            for number in range(count):
                make(number)
            best[name] = min(best[name], (time.process_time() - began) / count)
    heading("work", "CPU ms a volume", "views a CPU second", "ratio")
    first = best["reference: MONAI, cached field in memory"]
    for name, seconds in best.items():
        row(name, f"{seconds * 1e3:.1f}", f"{VIEWS / seconds:.1f}", f"{first / seconds:.1f}")
    for loader in (memory, from_zarr, from_tar, of_48):
        loader.close()


def facts(path: Path) -> tuple[DatasetInfo, pa.Table]:
    plain = Dataset.open(path)
    return plain.info, plain.index


def readers(folder: Path, data: DataConfig, counts: Sequence[int], samples: int) -> None:
    """Reader processes in addition to the trainer's: wall time, and CPU time of all of them."""
    heading("readers", "DALI threads", "CPU ms a volume", "views a second, wall")
    for workers in counts:
        config = data.model_copy(update={"path": folder / "zarr", "workers": workers})
        loader = Loader(config, seed=0, global_batch=4, micro_batch=4)
        stream = iter(loader)
        for _ in range(data.prefetch + 2):
            next(stream)
        cpu, wall = tree_seconds(), time.perf_counter()
        for _ in itertools.islice(stream, 2 * samples // 4):
            pass
        cpu, wall = (now - then for now, then in ((tree_seconds(), cpu), (time.perf_counter(), wall)))
        row(
            *(workers, max(1, workers)),
            *(f"{cpu / 2 / samples * 1e3:.1f}", f"{VIEWS * 2 * samples / wall:.1f}"),
        )
        loader.close()


def tree_seconds() -> float:
    """CPU seconds of this process and its living children."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        user, system = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        total += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return total


def batches(loader: Loader) -> Row:
    """Takes a batch of 4 at every fourth call."""
    stream = iter(loader)
    return lambda number: None if number % 4 else next(stream)


def reads(dataset: Dataset, data: DataConfig, copied: bool = False) -> Row:
    """Reads the voxels of a sample and, optionally, copies as many bytes as its views have."""
    source = ViewSource(dataset, data, Share(Order.of(dataset, 0, 4), 0, 1, 1), 0)
    size = data.view_sizes[0] if copied else (0, 0, 0)
    views, to = (np.zeros((VIEWS, 3, *size), np.float32) for _ in range(2))

    def read(number: int) -> None:
        source.isotropic_box(0, source.draw(number, 0))
        np.copyto(to, views)

    return read


def windowed_field(volume: np.ndarray, data: DataConfig) -> torch.Tensor:
    """The reference's cached field: (C, 224, 224, 224) float16 in [0, 1]."""
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
            made.append(functional.interpolate(channels[None], size=data.view_sizes[0], mode="area"))
        return made

    return make


def kernel_sample(volume: np.ndarray, data: DataConfig) -> Callable[[int], object]:
    start = np.array(origin(volume.shape, (FIELD,) * 3))
    return lambda number: [
        cut_view(
            volume,
            (start + view.start).tolist(),
            view.edge,
            data.windows,
            data.view_size,
            view.flip,
            view.shift,
        )
        for view in draw_views(data, SPACING, 0, number, 0)
    ]


def reference(data: DataConfig) -> Callable[[np.ndarray], object]:
    """`DataAugmentationDINO3D`."""
    size, sigma = (data.view_size,) * 3, data.smooth_sigma
    load = [mt.CastToType(dtype=np.float32), mt.ResizeWithPadOrCrop((FIELD,) * 3)]
    flips = [mt.RandFlip(prob=data.flip_probability, spatial_axis=axis) for axis in range(3)]
    crop = [mt.RandSpatialCrop(112, random_center=True, random_size=True), mt.Resize(size)]
    shift = [mt.RandShiftIntensity(offsets=data.shift, prob=data.shift_probability)]
    smooth = mt.RandGaussianSmooth(sigma_x=sigma, sigma_y=sigma, sigma_z=sigma, prob=data.smooth_probability)
    gamma = mt.RandAdjustContrast(gamma=data.gamma, prob=data.gamma_probability)
    small = mt.RandSpatialCrop(64, max_roi_size=112, random_center=True, random_size=True)
    chains = [
        mt.Compose([*load, *crop, *flips, *shift, smooth, mt.ToTensor()]),
        mt.Compose([*load, *crop, *flips, *shift, gamma, mt.ToTensor()]),
        *[mt.Compose([*load, mt.CenterSpatialCrop((192,) * 3), small, mt.Resize(size), mt.ToTensor()])] * 2,
    ]
    return lambda field: [chain(field) for chain in chains]


def from_nifti(path: Path) -> np.ndarray:
    """`loading_transforms`, from a file to the field, float16 (C, 224, 224, 224)."""
    load = [mt.LoadImage(image_only=True), mt.EnsureChannelFirst(), mt.Orientation("RAS", labels=None)]
    load += [mt.Spacing((1.0, 1.0, 1.0), mode=3), mt.CropForeground(allow_smaller=False)]
    hu = mt.Compose(load)(path)
    scales = [mt.ScaleIntensityRange(lv - w // 2, lv + w // 2, 0, 1, clip=True) for lv, w in WINDOWS]
    field = mt.Resize((FIELD,) * 3)(torch.cat([scale(hu) for scale in scales]))
    return np.asarray(field).astype(np.float16)


if __name__ == "__main__":
    main()
