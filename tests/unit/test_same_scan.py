"""Patients who share a scan count as one in splits, probes and leakage checks."""

import logging
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_samples import make_key, make_record

from fmct_hpc.probe.budget import Budget
from fmct_hpc.probe.cohort import read_cohort
from fmct_hpc.probe.leakage import check_leakage, patients_of
from fmct_hpc.probe.splits import SplitConfig
from shards import Dataset, ShardWriter, finish_dataset
from shards.errors import FmctError
from shards.patients import Patients, tied, tied_patients
from shards.split import split


def digest(scan: int) -> str:
    return f"{scan + 1:064x}"


def write(folder: Path, volumes: list[tuple[int, int]]) -> Dataset:
    """A dataset of volumes, each with a patient, a scan and a separate study."""
    voxels = np.zeros((4, 4, 4), np.int16)
    with ShardWriter(folder, "shard-00000", "zarr") as writer:
        for number, (patient, scan) in enumerate(volumes):
            keys = {"patient_key": make_key(1000 + patient), "study_key": make_key(number)}
            writer.add(make_record(voxels, make_key(number), source_digest=digest(scan), **keys), voxels)
    finish_dataset(folder, "zarr", ["shard-00000"])
    return Dataset.open(folder)


def write_labels(path: Path, volumes: int, **columns: list[str]) -> Path:
    studies = [make_key(number) for number in range(volumes)]
    pq.write_table(
        pa.table({"study_key": studies, "bleed": [n % 2 for n in range(volumes)], **columns}), path
    )
    return path


TWICE = [(patient, patient) for patient in range(60)] + [(60 + n, n) for n in range(0, 60, 2)]
"""60 patients with one scan each, every second one exported again under another ID."""


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=20))
def test_chains_of_equal_scans_tie_patients(volumes: list[tuple[int, int]]) -> None:
    patients = [make_key(patient) for patient, _ in volumes]
    index = pa.table({"patient_key": patients, "source_digest": [digest(scan) for _, scan in volumes]})
    groups = [{key} for key in set(patients)]
    for (a, one), (b, other) in combinations(volumes, 2):
        if one == other:
            joined = [group for group in groups if {make_key(a), make_key(b)} & group]
            groups = [group for group in groups if group not in joined] + [set.union(*joined)]
    expected = {key: min(group) for group in groups for key in group}
    assert tied_patients(index).tolist() == [expected[key] for key in patients]
    assert tied(index, tied_patients(index)) == len(set(patients)) - len(groups)
    everyone = Patients(np.unique(tied_patients(index)), tied_patients(index), index)
    for patient, scan in volumes:
        for mark in (make_key(patient), digest(scan)):
            assert everyone.marked(frozenset({mark, "f" * 32})) == 1
        chosen = replace(everyone, keys=np.array([expected[make_key(patient)]]))
        of_one: set[str] = set()
        of_others: set[str] = set()
        for key, volume in volumes:
            part = of_one if expected[make_key(key)] == chosen.keys[0] else of_others
            part |= {make_key(key), digest(volume)}
        assert chosen.marked(frozenset(of_one)) == 1
        assert chosen.marked(frozenset(of_others)) == 0


def test_a_missing_digest_ties_no_patients() -> None:
    patients = [make_key(1), make_key(2)]
    index = pa.table({"patient_key": patients, "source_digest": ["0" * 64] * 2})
    assert tied_patients(index).tolist() == patients


def test_a_scan_of_two_patients_is_in_one_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "data", TWICE)
    with caplog.at_level(logging.WARNING):
        split(tmp_path / "data", tmp_path / "out", {"train": 0.5, "test": 0.5}, seed=1)
    assert "30 patients share a scan" in caplog.text
    parts = [Dataset.open(tmp_path / "out" / name) for name in ("train", "test")]
    scans, patients = (
        [set(part.index[column].to_pylist()) for part in parts] for column in ("source_digest", "patient_key")
    )
    assert min(map(len, scans)) > 10
    assert not scans[0] & scans[1]
    assert not patients[0] & patients[1]


@pytest.mark.parametrize("folds", [None, 5])
def test_a_scan_of_two_patients_is_not_in_training_and_test(tmp_path: Path, folds: int | None) -> None:
    dataset = write(tmp_path / "data", TWICE)
    labels = write_labels(tmp_path / "labels.parquet", len(TWICE))
    cohort = read_cohort(dataset.path, labels, None, SplitConfig(), folds)
    scans = np.array(dataset.index["source_digest"].to_pylist())[cohort.rows]
    assert len(np.unique(cohort.patient_keys)) == 60
    for parts in cohort.parts("bleed", Budget(1.0, None), 0):
        taught = set(scans[np.concatenate([parts.train, parts.validation])])
        assert not taught & set(scans[np.concatenate(list(parts.tests.values()))])


def test_labels_that_put_copies_of_a_scan_in_two_splits_are_refused(tmp_path: Path) -> None:
    dataset = write(tmp_path / "data", [(0, 0), (1, 1), (2, 0)])
    labels = write_labels(tmp_path / "labels.parquet", 3, split=["train", "validation", "test"])
    with pytest.raises(FmctError, match="1 patients are in more than one split"):
        read_cohort(dataset.path, labels, None, SplitConfig(), None)


def test_a_pretraining_scan_under_another_id_is_leakage(tmp_path: Path) -> None:
    tested = write(tmp_path / "tested", [(0, 0), (1, 1), (2, 2), (3, 2), (4, 4)])
    seen = write(tmp_path / "seen", [(50, 1), (3, 3), (51, 9)])
    cohort = read_cohort(tested.path, write_labels(tmp_path / "l.parquet", 5), None, SplitConfig(), 2)
    manifest = tmp_path / "manifest.parquet"
    pq.write_table(seen.index.select(["patient_key", "source_digest"]), manifest)
    for place in (seen.path, manifest):
        actual = check_leakage("own", cohort.tested(), patients_of(place), allowed=True)
        assert (actual.tested, actual.pretrained) == (4, 2)  # 1 by its scan, 2 and 3 by the key of 3
