"""Patients of a probe: labels, splits, and overlap with pretraining."""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_samples import make_key
from small_training import small_config, small_encoder, write_dataset

from fmct_hpc.probe.encoder_spec import EncoderSpec
from fmct_hpc.probe.labels import LabelTable
from fmct_hpc.probe.leakage import check_leakage, pretraining_patients
from fmct_hpc.probe.splits import SplitConfig, hashed_splits, patient_draws, require_patient_level
from fmct_hpc.train.attempts import begin
from fmct_hpc.train.checkpoint import DataFacts, file_facts
from shards import Dataset
from shards.derive import convert
from shards.errors import FmctError
from shards.patients import Patients


def write_labels(path: Path, columns: Mapping[str, object]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_labels_join_volumes_by_study(tmp_path: Path) -> None:
    columns = {"study_key": ["a", "b", "c"], "bleed": [1, None, 0], "fracture": [0, 1, 1]}
    table = LabelTable.read(write_labels(tmp_path / "l.parquet", columns))
    joined = table.join(np.array(["b", "x", "a", "b"]))
    assert table.tasks == ("bleed", "fracture")
    assert joined.rows.tolist() == [0, 2, 3]
    assert np.array_equal(joined.values, [[np.nan, 1.0], [1.0, 0.0], [np.nan, 1.0]], equal_nan=True)
    assert joined.splits is None
    with pytest.raises(FmctError, match="none of its studies is in the dataset"):
        table.join(np.array(["x"]))


def test_a_study_with_two_rows_is_refused(tmp_path: Path) -> None:
    columns = {"study_key": ["a", "b", "a"], "bleed": [0, 1, 1]}
    with pytest.raises(FmctError, match="row 3"):
        LabelTable.read(write_labels(tmp_path / "l.parquet", columns))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["9fc9bc"], "column bleed is string and not numeric"),
        (["1"], "column bleed is string and not numeric"),
        ([[1]], "column bleed is list"),
        ([0.5], "column bleed has values other than 0, 1 and null"),
        ([2], "column bleed has values other than 0, 1 and null"),
    ],
)
def test_other_tables_are_refused_as_labels(tmp_path: Path, values: list[object], message: str) -> None:
    path = write_labels(tmp_path / "manifest.parquet", {"study_key": ["a"], "bleed": values})
    with pytest.raises(FmctError, match=rf"manifest\.parquet(?: row 1)?: .*{message}"):
        LabelTable.read(path)


def test_given_splits_must_not_divide_a_patient(tmp_path: Path) -> None:
    columns = {"study_key": ["a", "b", "c"], "bleed": [1, 0, 0], "split": ["train", "test", "validation"]}
    joined = LabelTable.read(write_labels(tmp_path / "l.parquet", columns)).join(np.array(["a", "b", "c"]))
    assert joined.splits is not None
    require_patient_level(np.array(["1", "2", "3"]), joined.splits, "l.parquet")
    with pytest.raises(FmctError, match=r"l\.parquet: 1 patients are in more than one split, for example 1"):
        require_patient_level(np.array(["1", "1", "3"]), joined.splits, "l.parquet")
    other = write_labels(tmp_path / "o.parquet", columns | {"split": ["train", "dev", "test"]})
    with pytest.raises(FmctError, match="not 'dev'"):
        LabelTable.read(other)


def test_the_split_of_a_patient_depends_on_the_patient_alone() -> None:
    patients = np.array([make_key(number) for number in range(4000)])
    splits = hashed_splits(patients, SplitConfig(test=0.3, validation=0.1))
    for name, share in (("test", 0.3), ("validation", 0.1), ("train", 0.6)):
        assert (splits == name).mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 4000))
    some = np.random.default_rng(0).permutation(4000)[:500]
    assert (hashed_splits(patients[some], SplitConfig(test=0.3, validation=0.1)) == splits[some]).all()
    assert (hashed_splits(patients, SplitConfig(seed=1)) != splits).any()
    # Sampling of patients is independent of their split.
    draws = patient_draws(patients, 0, "labels")
    assert draws[splits == "train"].mean() == pytest.approx(0.5, abs=0.03)
    assert set(patients[draws < 0.01]) < set(patients[draws < 0.1])


def trained(run: Path, data: Path, start_from: Path | None = None) -> Path:
    """A run folder as written by training, with arbitrary weights."""
    run.mkdir()
    config = small_config(data, run={"start_from": start_from})
    facts = file_facts(start_from) if start_from else None
    begin(
        run,
        config,
        DataFacts.of(Dataset.open(data)),
        ["host"],
        0,
        start_digest=facts.sha256 if facts else None,
    )
    (run / "encoder.safetensors").write_text(str(run))
    return run


def test_patients_of_an_initial_run_are_pretraining_patients(tmp_path: Path) -> None:
    first = trained(tmp_path / "first", write_dataset(tmp_path / "five", 5))
    weights = first / "encoder.safetensors"
    second = trained(tmp_path / "second", write_dataset(tmp_path / "three", 3), weights)
    third = trained(tmp_path / "third", write_dataset(tmp_path / "two", 2), second / "encoder.safetensors")
    assert pretraining_patients(third) == frozenset(make_key(number)[::-1] for number in range(5))
    weights.write_text("other weights")
    assert pretraining_patients(third) is None
    assert pretraining_patients(first) is not None
    weights.unlink()
    assert pretraining_patients(second) is None


@pytest.mark.parametrize("called_from", [".", "runs", "elsewhere/deep"])
def test_relative_paths_of_a_record_resolve_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called_from: str
) -> None:
    """As recorded by training up to 0.1.0; another dataset at such a path is not accepted."""
    write_dataset(tmp_path / "data", 3)
    write_dataset(tmp_path / called_from / "other" / "data", 5)
    (tmp_path / "runs").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)
    first = trained(Path("runs/first"), Path("data"))
    second = trained(Path("runs/second"), Path("data"), first / "encoder.safetensors")
    assert json.loads((second / "attempts/0001.json").read_text())["configuration"]["data"]["path"] == "data"
    monkeypatch.chdir(tmp_path / called_from / "other")
    assert pretraining_patients(tmp_path / "runs/second") == frozenset(make_key(n)[::-1] for n in range(3))
    shutil.rmtree(tmp_path / "data")
    assert pretraining_patients(tmp_path / "runs/second") is None


def test_weights_of_another_dataset_in_a_run_folder_leave_patients_unknown(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", write_dataset(tmp_path / "data", 3))
    small_encoder(tmp_path / "data", run)
    assert pretraining_patients(run) is not None
    small_encoder(write_dataset(tmp_path / "other", 5), run)
    assert pretraining_patients(run) is None
    assert pretraining_patients(run / "encoder.safetensors") is None


def test_a_replaced_dataset_leaves_pretraining_patients_unknown(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", write_dataset(tmp_path / "data", 3))
    convert(tmp_path / "data", tmp_path / "tar", "webdataset")
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "tar").rename(tmp_path / "data")
    assert pretraining_patients(run) == frozenset(make_key(number)[::-1] for number in range(3))
    shutil.rmtree(tmp_path / "data")
    write_dataset(tmp_path / "data", 5)
    assert pretraining_patients(run) is None


def test_test_patients_seen_in_pretraining_are_refused_or_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = trained(tmp_path / "run", write_dataset(tmp_path / "data", 3))
    own, manifest = EncoderSpec(name="own", weights=run / "encoder.safetensors"), tmp_path / "m.parquet"
    seen = own.pretraining_patients
    assert seen == frozenset(make_key(number)[::-1] for number in range(3))
    keys = np.array([make_key(number)[::-1] for number in (1, 2, 7)])
    index = pa.table(
        {"patient_key": keys.tolist(), "source_digest": [f"{number:064x}" for number in (1, 2, 7)]}
    )
    tested = Patients(keys, keys, index)
    with pytest.raises(FmctError, match=r"encoder own: 2 of 3 tested patients .* allow_pretraining_patients"):
        check_leakage("own", tested, seen, allowed=False)
    with caplog.at_level(logging.WARNING):
        assert check_leakage("own", tested, seen, allowed=True).pretrained == 2
    assert "LEAKAGE: encoder own: 2 of 3 tested patients" in caplog.text

    pq.write_table(pa.table({"patient_key": [make_key(7)[::-1]]}), manifest)
    peer = EncoderSpec(name="peer", function="peer_encoder:tiny", pretraining=manifest)
    assert check_leakage("peer", tested, peer.pretraining_patients, allowed=True).pretrained == 1
    unknown = EncoderSpec(name="unknown", function="peer_encoder:tiny")
    nobody_knows = unknown.pretraining_patients
    assert nobody_knows is None
    with pytest.raises(FmctError, match=r"encoder unknown: .*not available.*allow_unknown_pretraining=true"):
        check_leakage("unknown", tested, nobody_knows, allowed=False)
    for words in ({"allowed": True}, {"allowed": False, "unknown_allowed": True}):
        assert check_leakage("unknown", tested, nobody_knows, **words).pretrained is None
    with pytest.raises(FmctError, match="2 of 3 tested patients"):
        check_leakage("own", tested, seen, allowed=False, unknown_allowed=True)
    untrained = EncoderSpec(name="random", weights=run, untrained=1)
    assert check_leakage("random", tested, untrained.pretraining_patients, False).pretrained == 0
