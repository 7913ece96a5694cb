"""Data wait of ViT-B's step with real shards: by the package's loader, or by threads without DALI."""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measure import Measurement
from plain_training import PlainTraining, configuration
from shard_samples import make_key, noise, write_dataset
from threaded_loader import ThreadedLoader

from fmct_hpc.config import TrainConfig

VOLUMES, STEPS = 64, 20
TOY_DATA = {"field_mm": 40, "global_crop_mm": [20, 40], "local_crop_mm": [10, 20], "local_field_mm": 40}


def measure(m: Measurement) -> None:
    """One row per number of reader processes: the share of a step that waits for data."""
    batch = 2 if m.dry else 64
    with tempfile.TemporaryDirectory() as folder:
        data = _written(Path(folder), 4 if m.dry else VOLUMES, (40, 48, 40) if m.dry else (170, 210, 170))
        for workers in (0,) if m.dry else (4, 8, 14):
            if m.over:
                return
            own = {"path": str(data), "workers": workers, **(TOY_DATA if m.dry else {})}
            config = configuration(m.dry, batch=batch, data=own, engine={"compile": not m.dry})
            training = PlainTraining(config, m.device)
            loader, name = _loader(config, m.device, workers)
            try:
                seconds, waited = _stepped(training, loader, 4 if m.dry else STEPS)
            finally:
                loader.close()
            m.add(loader=name, readers=workers, batch=batch, ms=1000 * seconds, data_wait=waited / seconds)


def _loader(config: TrainConfig, device: torch.device, workers: int) -> tuple[Any, str]:
    try:
        from fmct_hpc.data.loader import Loader
    except ModuleNotFoundError:
        return ThreadedLoader(config, device, workers), "threads, no DALI"
    batch = config.run.batch
    return Loader(config.data, 0, batch, batch, 0, 1, 0, 1, config.engine.device), "DALI"


def _stepped(training: PlainTraining, loader: Any, steps: int) -> tuple[float, float]:
    """Mean seconds of a step and of its wait for a batch, after three warm-up steps."""
    taken = waited = 0.0
    for number, batch in zip(range(steps), loader, strict=False):
        began = time.perf_counter()
        training.step(number, batch.views).item()
        if number >= 3:
            taken += time.perf_counter() - began + batch.wait_seconds
            waited += batch.wait_seconds
    return taken / (steps - 3), waited / (steps - 3)


def _written(folder: Path, volumes: int, shape: tuple[int, int, int]) -> Path:
    """A dataset of noise in HU with constant air, in one Zarr shard."""
    write_dataset(folder, "zarr", {"shard-00000": {make_key(n): noise(shape, n) for n in range(volumes)}})
    return folder
