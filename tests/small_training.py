"""A training run small enough for tests: its data, its configuration, its ranks."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from forked_commands import forked_fmct
from shard_samples import make_key, make_record

from fmct_hpc.config import TrainConfig
from shards import Dataset, ShardWriter, finish_dataset

if TYPE_CHECKING:
    from torch import Tensor

    from fmct_hpc.train.checkpoint import InitialWeights
    from fmct_hpc.train.loop import Training

STEPS = int(os.environ.get("FMCT_STEPS", "20"))
BATCH = 4
VOLUMES = 6
CHECKPOINT_EVERY = 6


def write_dataset(directory: Path, volumes: int = 6, spacing: float = 4.0, **facts: object) -> Path:
    """Ellipsoids of tissue in air, each with a bright ball elsewhere; `facts` are those of every record."""
    grid = np.stack(np.meshgrid(*(3 * [np.linspace(-1, 1, 40)]), indexing="ij"))
    with ShardWriter(directory, "shard-00000", "zarr") as writer:
        for number in range(volumes):
            generator = np.random.default_rng(number)
            inside = (grid**2 / generator.uniform(0.4, 0.8, (3, 1, 1, 1))).sum(axis=0) < 1
            ball = ((grid - generator.uniform(-0.4, 0.4, (3, 1, 1, 1))) ** 2).sum(axis=0) < 0.05
            hu = np.where(inside, 35 + 40 * ball, -1000) + generator.normal(0, 4, inside.shape)
            voxels = hu.astype(np.int16)
            places: dict[str, object] = {"spacing_mm": (spacing, spacing, spacing)}
            writer.add(make_record(voxels, make_key(number), **places | facts), voxels)
    finish_dataset(directory, "zarr", ["shard-00000"])
    return directory


def small_config(data: Path, /, **sections: Mapping[str, object]) -> TrainConfig:
    values: dict[str, Mapping[str, object]] = {
        "data": {"path": str(data), "view_size": 24, "local_views": 1, "workers": 0},
        "model": {
            **{"width": 24, "depth": 1, "heads": 2, "register_tokens": 1, "patch_size": 12},
            **{"prototypes": 32, "head_hidden": 24, "head_bottleneck": 12},
            **{"decoder_width": 18, "decoder_depth": 1, "decoder_heads": 2},
            **{"drop_path": 0.2, "positions": "learned"},
        },
        "objective": {"ibot_weight": 0.5},
        "optim": {"base_lr": 0.02},
        "engine": {"device": "cpu", "precision": "fp32"},
        "run": {
            **{"steps": STEPS, "batch": BATCH, "checkpoint_every": CHECKPOINT_EVERY},
            **{"log_every": 5, "images_every": 10},
        },
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return TrainConfig.model_validate(values)


def small_encoder(data: Path, folder: Path) -> Path:
    """An encoder.safetensors of random weights, exported as by a run on that dataset."""
    import torch

    from fmct_hpc.objective.student import Student
    from fmct_hpc.train.checkpoint import DataFacts
    from fmct_hpc.train.export import export_encoder

    config = small_config(data, model={"patch_size": 6})
    torch.manual_seed(0)
    export_encoder(folder, Student(config).state_dict(), config, DataFacts.of(Dataset.open(data)), 1)
    return folder / "encoder.safetensors"


def write_checkpoint(
    folder: Path,
    entries: "Mapping[str, Tensor]",
    config: TrainConfig,
    data: Path,
    ranks: int = 1,
    beginning: "InitialWeights | None" = None,
) -> Path:
    """A run's checkpoint of step 3 with these entries, by kind and name, sliced as by `ranks` ranks."""
    from fmct_hpc.train.checkpoint import MANIFEST, DataFacts, Manifest, file_facts, part_name
    from fmct_hpc.train.pieces import whole_piece, write_pieces

    folder.mkdir(parents=True)
    pieces = [whole_piece(key, tensor) for key, tensor in entries.items()]
    names = [part_name(rank) for rank in range(ranks)]
    for rank, name in enumerate(names):
        shares = (piece.share(rank, ranks) for piece in pieces)
        write_pieces(folder / name, [piece for piece in shares if len(piece.values)])
    files = {name: facts for name in names if (facts := file_facts(folder / name))}
    manifest = Manifest(
        step=3,
        updates=3,
        world_size=ranks,
        zero_stage=0,
        versions={},
        files=files,
        configuration=config.model_dump(mode="json"),
        data=DataFacts.of(Dataset.open(data)),
        beginning=beginning,
    )
    (folder / MANIFEST).write_bytes(manifest.sealed().model_dump_json(indent=1).encode())
    return folder


def write_recipe(config: TrainConfig, path: Path) -> Path:
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


def start_training(recipe: Path, run: Path, ranks: int = 2, *arguments: str) -> subprocess.Popen[str]:
    """`fmct train` in a separate process group."""
    command = [sys.executable, "-m", "launch.cli", "train", "--config", str(recipe), "--run", str(run)]
    return subprocess.Popen(
        [*command, "--ranks", str(ranks), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run_training(
    recipe: Path, run: Path, ranks: int = 2, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """`fmct train` to its end, forked with its ranks (forked_commands)."""
    return subprocess.run(
        [*forked_fmct(), "train", "--config", recipe, "--run", run, "--ranks", str(ranks), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
    )


def after_a_step(config: TrainConfig) -> "Training":
    """This rank's part of a training after its first step, with one micro-batch."""
    from fmct_hpc.train.process_group import join

    place = join("cpu")  # before DeepSpeed is imported
    from fmct_hpc.data.loader import Loader
    from fmct_hpc.train.loop import Training

    training = Training(config, place)
    batch = config.run.batch // place.world_size
    loader = Loader(config.data, 0, config.run.batch, batch, place.rank, place.world_size)
    training.step(0, [next(iter(loader))], False)
    loader.close()
    return training


def write_labelled(directory: Path, volumes: int = 48) -> tuple[Path, Path]:
    """Ellipsoids, every second with a bright ball: a dataset, and its labels `ball` and `noise`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    grid = np.stack(np.meshgrid(*(3 * [np.linspace(-1, 1, 40)]), indexing="ij"))
    generator = np.random.default_rng(0)
    data, labels = directory / "data", directory / "labels.parquet"
    with ShardWriter(data, "shard-00000", "zarr") as writer:
        for number in range(volumes):
            inside = (grid**2 / generator.uniform(0.4, 0.8, (3, 1, 1, 1))).sum(axis=0) < 1
            ball = ((grid - generator.uniform(-0.3, 0.3, (3, 1, 1, 1))) ** 2).sum(axis=0) < 0.15
            hu = np.where(inside, 20 + 60 * (ball & (number % 2 == 1)), -1000)
            voxels = (hu + generator.normal(0, 4, inside.shape)).astype(np.int16)
            facts = {"spacing_mm": (4.0, 4.0, 4.0), "study_key": make_key(1000 + number)}
            writer.add(make_record(voxels, make_key(number), **facts), voxels)
    finish_dataset(data, "zarr", ["shard-00000"])
    studies = [make_key(1000 + number) for number in range(volumes)]
    columns = {"ball": [n % 2 for n in range(volumes)], "noise": generator.integers(0, 2, volumes).tolist()}
    pq.write_table(pa.table({"study_key": studies, **columns}), labels)
    return data, labels
