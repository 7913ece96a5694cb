"""A sweep of all methods on an encoder of this package, small enough for tests."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from shard_samples import make_key, make_record
from small_training import small_config

from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.train.export import EncoderInfo, write_encoder
from fmct_hpc.train.start import untrained_encoder
from shards import ShardWriter, finish_dataset

AFFINE = (0, 0, -12, 90, 0, -12, 0, 90, 12, 0, 0, -90, 0, 0, 0, 1)


def bright_sweep(tmp_path: Path, seed: int = 0) -> SweepConfig:
    """A dataset whose label marks the brighter half of the volumes, an untrained encoder, and the grid."""
    keys = [make_key(number) for number in range(60)]
    generator = np.random.default_rng(0)
    with ShardWriter(tmp_path / "data", "shard-00000", "zarr") as writer:
        for number, key in enumerate(keys):
            voxels = generator.normal(25 + 30 * (number % 2), 5, (16, 16, 16)).astype(np.int16)
            places = {"spacing_mm": (12.0, 12.0, 12.0), "affine": AFFINE}
            record = make_record(voxels, key, study_key=key, patient_key=key, **places)
            writer.add(record, voxels)
    finish_dataset(tmp_path / "data", "zarr", ["shard-00000"])
    labels = pa.table({"study_key": keys, "bright": [number % 2 for number in range(60)]})
    pq.write_table(labels, tmp_path / "labels.parquet")
    training = small_config(tmp_path / "data")
    info = EncoderInfo(
        step=7, model=training.model, data=training.data, spacing_mm=(12.0, 12.0, 12.0), code_version="test"
    )
    encoder = untrained_encoder(info, seed=seed)
    write_encoder(tmp_path / "ours", {f"encoder.{n}": t for n, t in encoder.state_dict().items()}, info)
    return SweepConfig.model_validate(
        {
            "data": tmp_path / "data",
            "labels": tmp_path / "labels.parquet",
            "features": tmp_path / "features",
            "encoders": [{"name": "ours", "weights": tmp_path / "ours"}],
            "methods": ["logistic", "linear", "neighbours", "attentive", "finetune"],
            "seeds": [0],
            "bootstrap": 50,
            "linear": {"steps": 100},
            "attentive": {"steps": 100},
            "finetune": {"steps": 40, "batch": 8, "check_every": 10, "lr": 0.003},
            "allow_unknown_pretraining": True,
        }
    )
