"""Checks of a shard dataset: its files and digests, a sample of its volumes, one batch of views."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from fmct_hpc.data.config import DataConfig
from launch.doctor.finding import Finding, Problem, fault, note, run_check
from launch.doctor.shared import modes
from shards import Dataset
from shards import index as indexes
from shards import info as infos
from shards.dataset import RESTORE
from shards.errors import DamagedDataError, FmctError
from shards.formats import shard_path

SAMPLE = 16
"""Volumes read and compared with their CRC-32; `fmct shards verify` reads all."""
PLAUSIBLE_SPACING_MM = (0.2, 6.0)
"""From the finest CT detector to the coarsest grid on which a 96³ view still shows a ventricle."""
PLAUSIBLE_HEAD_MM = (80.0, 400.0)
"""Range of the median volume's shortest and longest edge: half a head's height, a head with its neck."""


def check_dataset(path: Path) -> Iterator[Finding]:
    """All checks of a dataset that training depends on, for a sample of the volumes."""
    opened: list[Dataset] = []

    def opens() -> str:
        opened.append(Dataset.open(path, clipped=True))
        info = opened[0].info
        return f"{info.volumes} volumes in {len(info.shards)} {info.format} shards, {info.bytes / 1e9:.2f} GB"

    yield run_check("opens", opens)
    if not opened:
        return
    dataset = opened[0]
    yield run_check("files", lambda: _files(dataset))
    yield run_check("modes", lambda: modes(path))
    yield run_check("sample", lambda: _sample(dataset))
    yield run_check("geometry", lambda: _geometry(dataset))
    data = DataConfig(path=path, workers=0)  # reader processes are checked with the installation
    yield run_check("batch", lambda: f"views {one_batch(data, 1, 'cpu')} from the DALI graph")


def _files(dataset: Dataset) -> str | Problem:
    """Check every shard file's size and every sidecar's SHA-256."""
    info = dataset.info
    wrong = []
    for shard, digest in zip(info.shards, info.sidecar_sha256, strict=True):
        file = shard_path(dataset.path, shard.name, info.format)
        sidecar = indexes.sidecar_path(dataset.path, shard.name)
        size = file.stat().st_size if file.is_file() else None
        if size != shard.bytes:
            wrong.append(f"{file.name} " + ("is missing" if size is None else f"has {size} bytes"))
        elif not sidecar.is_file() or infos.sha256(sidecar) != digest:
            wrong.append(f"{sidecar.name} is missing or changed")
    infos.require_preprocessing(dataset.path, info.config_digest)
    if wrong:
        return fault(f"{len(wrong)} of {len(info.shards)} shards: {wrong[0]}", RESTORE)
    return f"{len(info.shards)} shards have the recorded sizes, and their indexes the recorded SHA-256"


def _sample(dataset: Dataset) -> str | Problem:
    count = min(SAMPLE, len(dataset))
    damaged: list[str] = []
    for number in sorted(random.Random(dataset.info.digest).sample(range(len(dataset)), count)):
        try:
            dataset.read(number)
        except DamagedDataError as error:
            damaged.append(str(error))
    if damaged:
        return fault(f"{len(damaged)} of {count} volumes: {damaged[0]}", "fmct shards verify finds them all")
    return f"{count} volumes match their CRC-32; fmct shards verify checks all"


def _geometry(dataset: Dataset) -> str | Problem:
    spacing = np.array(dataset.info.spacing_mm)
    shapes = pc.list_flatten(dataset.index["shape"]).to_numpy().reshape(-1, 3)
    smallest, *_, largest = sorted(np.median(shapes, axis=0) * spacing)
    grid = " × ".join(f"{edge:g}" for edge in spacing)
    summary = f"{grid} mm voxels, the median volume's edges {smallest:.0f} to {largest:.0f} mm"
    low, high = PLAUSIBLE_SPACING_MM
    if not (low <= spacing.min() and spacing.max() <= high):
        return fault(
            f"{summary}: implausible spacing for head CT", "check grid.spacing_mm, then preprocess again"
        )
    if smallest < PLAUSIBLE_HEAD_MM[0] or largest > PLAUSIBLE_HEAD_MM[1]:
        return note(
            f"{summary}: implausible size for heads", "inspect a volume: fmct shards dump writes it as NIfTI"
        )
    return summary


def one_batch(data: DataConfig, volumes: int, device: str) -> str:
    """Make views of `volumes` volumes with the DALI graph, and check that they are finite.

    Returns their shape as text. Raises FmctError if they are not finite or have no contrast.
    """
    import torch

    from fmct_hpc.data.loader import Loader

    loader = Loader(data, 0, volumes, volumes, device="gpu" if device == "gpu" else "cpu")
    try:
        groups = next(iter(loader)).views.by_size()
    finally:
        loader.close()
    for views in groups:
        if not bool(torch.isfinite(views).all()):
            raise FmctError(f"{data.path}: non-finite views; report this with the dataset's digest")
        if float(views.std()) == 0:
            raise FmctError(f"{data.path}: views without contrast; inspect a volume with fmct shards dump")
    return " and ".join(" × ".join(map(str, views.shape)) for views in groups)
