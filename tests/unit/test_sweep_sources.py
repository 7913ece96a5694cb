"""Figures of a sweep are of the weights and volumes that its configuration currently names."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_samples import make_key, make_record
from small_training import small_config

from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.probe.sweep.run import Sweep
from fmct_hpc.train.export import EncoderInfo, write_encoder
from fmct_hpc.train.start import untrained_encoder
from shards import FmctError, ShardWriter, finish_dataset

KEYS = [make_key(number) for number in range(40)]


def write_volumes(path: Path, contrast: float) -> None:
    """Noise; every other volume is brighter by `contrast` HU."""
    generator = np.random.default_rng(0)
    with ShardWriter(path, "shard-00000", "zarr") as writer:
        for number, key in enumerate(KEYS):
            voxels = generator.normal(25 + contrast * (number % 2), 5, (16, 16, 16)).astype(np.int16)
            writer.add(
                make_record(voxels, key, study_key=key, patient_key=key, spacing_mm=(12.0, 12.0, 12.0)),
                voxels,
            )
    finish_dataset(path, "zarr", ["shard-00000"])


def write_weights(folder: Path, seed: int, preprocess_digest: str | None = None) -> None:
    training = small_config(folder / "unused")
    info = EncoderInfo(
        step=seed,
        model=training.model,
        data=training.data,
        spacing_mm=(12.0, 12.0, 12.0),
        code_version="test",
        preprocess_digest=preprocess_digest,
    )
    weights = untrained_encoder(info, seed).state_dict()
    write_encoder(folder, {f"encoder.{name}": tensor for name, tensor in weights.items()}, info)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_volumes(tmp_path / "data", 30)
    labels = {"study_key": KEYS, "bright": [number % 2 for number in range(len(KEYS))]}
    pq.write_table(pa.table(labels), tmp_path / "labels.parquet")
    write_weights(tmp_path / "a", 1)
    write_weights(tmp_path / "b", 2)
    return tmp_path


def sweep(folder: Path, weights: str = "a", method: str = "logistic", **encoder: object) -> Sweep:
    config = {
        "data": folder / "data",
        "labels": folder / "labels.parquet",
        "features": folder / "features",
        "encoders": [{"name": "e", "weights": folder / weights, **encoder}],
        "methods": [method],
        "seeds": [0],
        "bootstrap": 20,
        "finetune": {"steps": 4, "batch": 8, "check_every": 2},
        "allow_unknown_pretraining": True,
    }
    return Sweep(SweepConfig.model_validate(config), folder / "out")


def steps(folder: Path) -> set[int]:
    """The training steps that the results name; `write_weights` sets them."""
    return set(pq.read_table(folder / "out" / "results.parquet")["step"].to_pylist())


def test_other_weights_or_other_pretraining_patients_need_another_plan(folder: Path) -> None:
    sweep(folder).run()
    pq.write_table(pa.table({"patient_key": KEYS}), folder / "seen.parquet")
    for changed in (sweep(folder, "b"), sweep(folder, pretraining=folder / "seen.parquet")):
        for ask in (changed.status, changed.collect, lambda changed=changed: changed.run_share(0, 1)):
            with pytest.raises(FmctError, match=r"plan\.json: from another configuration"):
                ask()
    with pytest.raises(FmctError, match="tested patients were in its pretraining data"):
        sweep(folder, pretraining=folder / "seen.parquet").plan()


def test_unknown_pretraining_patients_need_explicit_permission(folder: Path) -> None:
    """Refused before extraction; with the encoder's `pretraining` they are known."""
    sweep_ = sweep(folder)
    strict = Sweep(sweep_.config.model_copy(update={"allow_unknown_pretraining": False}), folder / "out")
    with pytest.raises(FmctError, match=r"encoder e: .*allow_unknown_pretraining=true"):
        strict.run()
    assert not (folder / "features").exists()
    pq.write_table(pa.table({"patient_key": ["f" * 32]}), folder / "seen.parquet")
    with_pretraining = sweep(folder, pretraining=folder / "seen.parquet").config
    known = Sweep(with_pretraining.model_copy(update={"allow_unknown_pretraining": False}), folder / "known")
    assert known.plan().leakage[0].pretrained == 0


@pytest.mark.parametrize("method", ["logistic", "finetune"])
def test_replaced_weights_are_probed_again(folder: Path, method: str) -> None:
    sweep(folder, method=method).run()
    assert steps(folder) == {1}
    shutil.rmtree(folder / "a")
    write_weights(folder / "a", 3)
    again = sweep(folder, method=method)
    again.plan()
    assert "0 of 1 units done" in again.status()
    if method == "logistic":
        with pytest.raises(FmctError, match="features/e: from other weights or another dataset; extract"):
            again.run_share(0, 1)
    sweep(folder, method=method).run()
    assert steps(folder) == {3}


def test_features_of_replaced_volumes_are_not_used(folder: Path) -> None:
    sweep(folder).run()
    shutil.rmtree(folder / "data")
    write_volumes(folder / "data", 0)
    again = sweep(folder)
    again.plan()
    with pytest.raises(FmctError, match="features/e: from other weights or another dataset; extract"):
        again.run_share(0, 1)
    sweep(folder).run()
    assert pq.read_table(folder / "out" / "results.parquet")["auc"].to_pylist()[0] < 0.9


def test_two_paths_of_the_same_weights_share_a_store(folder: Path) -> None:
    sweep(folder).run()
    made = (folder / "features/e").stat().st_ino, sorted((folder / "features/e").iterdir())
    other = sweep(folder, "a/encoder.safetensors")
    other.plan()
    assert other.run_share(0, 1) == 0
    assert ((folder / "features/e").stat().st_ino, sorted((folder / "features/e").iterdir())) == made


@pytest.mark.parametrize("method", ["logistic", "finetune"])
def test_volumes_of_another_preprocessing_are_refused_by_every_method(folder: Path, method: str) -> None:
    write_weights(folder / "c", 4, preprocess_digest="another")
    with pytest.raises(FmctError, match="another configuration than the training data of encoder e"):
        sweep(folder, "c", method).run()
