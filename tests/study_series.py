"""A small dataset of studies with several series; only the bone series show the finding of the label."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from shard_samples import make_key, make_record
from small_sweep import AFFINE
from small_training import small_config

from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.train.export import EncoderInfo, write_encoder
from fmct_hpc.train.start import untrained_encoder
from shards import ShardWriter, finish_dataset

STUDIES = 64
TORN = (5, 6)
"""The study whose series have two Patient IDs."""


def study_keys() -> list[str]:
    return [make_key(1000 + number) for number in range(STUDIES)]


def study_sweep(folder: Path) -> SweepConfig:
    """Each study has a soft thick volume, the best; three of four a bright or dark bone one, some a third."""
    generator = np.random.default_rng(0)
    positive = np.arange(STUDIES) // 4 % 2 == 1
    number = 0
    with ShardWriter(folder / "data", "shard-00000", "zarr") as writer:
        for study, key in enumerate(study_keys()):
            series = [("soft_thick", 30.0)]
            if study % 4 < 3:
                series.append(("bone_thin", 60.0 if positive[study] else 0.0))
            if study % 8 == 2:
                series.append(("soft_thin", 30.0))
            order = [*enumerate(series)][:: 1 if study % 2 else -1]  # the best is not always the first
            for rank, (role, hu) in order:
                voxels = generator.normal(hu, 5, (16, 16, 16)).astype(np.int16)
                patient = make_key(2000 + study + (3000 if study in TORN and rank else 0))
                place = {"study_key": key, "patient_key": patient, "role": role, "rank": rank}
                grid = {"spacing_mm": (12.0, 12.0, 12.0), "affine": AFFINE}
                number += 1
                writer.add(make_record(voxels, make_key(number), **place, **grid), voxels)
    finish_dataset(folder / "data", "zarr", ["shard-00000"])
    labels = {"study_key": study_keys(), "broken": positive.astype(int).tolist()}
    pq.write_table(pa.table(labels), folder / "labels.parquet")
    training = small_config(folder / "data")
    info = EncoderInfo(
        step=7, model=training.model, data=training.data, spacing_mm=(12.0, 12.0, 12.0), code_version="test"
    )
    encoder = untrained_encoder(info, seed=0)
    write_encoder(folder / "ours", {f"encoder.{n}": t for n, t in encoder.state_dict().items()}, info)
    return SweepConfig.model_validate(
        {
            "data": folder / "data",
            "labels": folder / "labels.parquet",
            "features": folder / "features",
            "encoders": [{"name": "ours", "weights": folder / "ours"}],
            "methods": ["logistic", "attentive", "finetune"],
            "samples": ["best", "study"],
            "seeds": [0],
            "bootstrap": 50,
            "split": {"test": 0.4, "validation": 0.25},
            "attentive": {"steps": 60, "check_every": 30},
            "finetune": {"steps": 40, "batch": 8, "check_every": 20, "lr": 0.003},
            "allow_unknown_pretraining": True,
        }
    )
