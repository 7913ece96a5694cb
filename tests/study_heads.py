"""Heads of the study's generator, small enough to learn from in a few hundred steps."""

from pathlib import Path

import numpy as np
from shard_samples import make_key, make_record

from launch.study.cohort import Split, make_volume
from launch.study.config import CohortConfig
from shards import ShardWriter, finish_dataset

SPACING = 7.0


def write_heads(directory: Path, heads: int, copies: bool = False) -> Path:
    """Different heads, or copies of one head that differ only in their noise."""
    config = CohortConfig(seed=77, edge=24, spacing_mm=SPACING)
    with ShardWriter(directory, "shard-00000", "zarr") as writer:
        for number in range(heads):
            voxels, _ = make_volume(config, Split.TRAIN, 0 if copies else number)
            noise = np.random.default_rng(number).normal(0, 8 if copies else 0, voxels.shape)
            voxels = (voxels + noise).astype(np.int16)
            writer.add(make_record(voxels, make_key(number), spacing_mm=3 * (SPACING,)), voxels)
    finish_dataset(directory, "zarr", ["shard-00000"])
    return directory
