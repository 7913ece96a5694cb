"""Patients held out by `fmct shards split`: in its table, in labels, and in the parts of a probe."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_samples import make_key, make_record, noise

from fmct_hpc.probe.budget import Budget
from fmct_hpc.probe.cohort import Cohort, read_cohort
from fmct_hpc.probe.splits import SplitConfig
from preprocess.labels import key_labels
from preprocess.privacy.deidentify import Pseudonymizer, new_key
from shards import Dataset, ShardWriter, finish_dataset
from shards.errors import FmctError
from shards.patients import tied_patients
from shards.split import split

PATIENTS = 60
FRACTIONS = {"train": 0.5, "validation": 0.2, "test": 0.3}


def patient(number: int) -> str:
    return make_key(1000 + number % PATIENTS)


def dataset(folder: Path, volumes: int = 2 * PATIENTS) -> Dataset:
    """Two studies per patient; the scans of patients 0 and 1 are equal, and those of 2 and 3."""
    voxels = noise((4, 5, 6), 0)
    with ShardWriter(folder, "s", "zarr") as shard:
        for n in range(volumes):
            scan = n % PATIENTS // 2 if n % PATIENTS < 4 else n
            keys = {"study_key": make_key(5000 + n), "patient_key": patient(n)}
            shard.add(make_record(voxels, make_key(n), source_digest=f"{scan + 10**63:064d}", **keys), voxels)
    finish_dataset(folder, "zarr", ["s"])
    return Dataset.open(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, its parts, and labels of its studies."""
    out = tmp_path_factory.mktemp("parts")
    whole = dataset(out / "data")
    split(whole.path, out / "parts", FRACTIONS, seed=1)
    studies = whole.index["study_key"].to_pylist()
    bleed = pa.array([n % 3 % 2 for n in range(len(studies))], pa.int8())
    pq.write_table(pa.table({"study_key": studies, "bleed": bleed}), out / "labels.parquet")
    return out


def cohort(folder: Path, parts: Path, labels: str = "labels.parquet", folds: int | None = None) -> Cohort:
    return read_cohort(folder / "data", folder / labels, None, SplitConfig(), folds, parts)


def test_every_study_has_the_part_that_its_volumes_are_stored_in(folder: Path) -> None:
    table = pq.read_table(folder / "parts" / "parts.parquet").to_pylist()
    stored = {
        (study, patient, name)
        for name in FRACTIONS
        for study, patient in zip(
            *(
                Dataset.open(folder / "parts" / name).index[column].to_pylist()
                for column in ("study_key", "patient_key")
            ),
            strict=True,
        )
    }
    assert [tuple(row.values()) for row in table] == sorted(stored)
    assert len(table) == 2 * PATIENTS
    read = {row["patient_key"]: row["split"] for row in table}
    assert read[patient(0)] == read[patient(1)]
    assert read[patient(2)] == read[patient(3)]


def test_probes_train_validate_and_test_in_the_parts(folder: Path) -> None:
    actual = cohort(folder, folder / "parts" / "parts.parquet")
    (whole,) = actual.parts("bleed", Budget(1.0, None), 0)
    rows = {"train": whole.train, "validation": whole.validation, "test": whole.tests["id"]}
    for name, of_part in rows.items():
        stored = Dataset.open(folder / "parts" / name).index["key"].to_pylist()
        assert sorted(actual.keys[of_part]) == sorted(stored)
    held_out = Dataset.open(folder / "parts" / "test").index
    assert set(actual.tested().keys.tolist()) == set(tied_patients(held_out).tolist())
    split(folder / "data", folder / "again", FRACTIONS, seed=2)
    assert cohort(folder, folder / "again" / "parts.parquet").digest != actual.digest


def test_a_study_that_is_added_has_its_patients_part(folder: Path, tmp_path: Path) -> None:
    grown = dataset(tmp_path / "data", 3 * PATIENTS)
    studies = grown.index["study_key"].to_pylist()
    pq.write_table(
        pa.table({"study_key": studies, "bleed": pa.array([0] * len(studies), pa.int8())}),
        tmp_path / "labels.parquet",
    )
    actual = cohort(tmp_path, folder / "parts" / "parts.parquet")
    assert len(actual.rows) == 3 * PATIENTS
    assert actual.splits is not None
    for key in np.unique(actual.patient_keys):
        assert len(set(actual.splits[actual.patient_keys == key])) == 1


def written(path: Path, columns: dict[str, list[Any]]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda rows: rows[:-1], f"1 patients have no part, for example {patient(59)}"),
        (
            lambda rows: [{**row, "patient_key": row["patient_key"][::-1]} for row in rows],
            r"has none of the 60 patients, .* made with the same key file",
        ),
        (lambda rows: [*rows, {**rows[0], "split": "test"}], r"row 61: 0+3e8 is in part 'test', and in an"),
        (
            lambda rows: [{**row, "split": "held_out"} for row in rows],
            "row 1: part 'held_out' is not one of train, ",
        ),
        (lambda rows: [{**rows[0], "patient_key": "Doe^Jane"}], "a key is not 32 hexadecimal digits"),
        (lambda rows: [{**rows[0], "split": None}], "expected text in every row"),
        (lambda rows: [{"study_key": row["study_key"]} for row in rows], "no column patient_key"),
        (
            lambda rows: [{**row, "split": "train" if n else "test"} for n, row in enumerate(rows)],
            "1 patients are in more than one split",  # 0 and 1 share a scan
        ),
    ],
)
def test_wrong_parts_are_refused_with_file_and_row_or_key(
    folder: Path,
    tmp_path: Path,
    change: Callable[[list[dict[str, str]]], list[dict[str, Any]]],
    expected: str,
) -> None:
    rows = [
        {"study_key": make_key(5000 + n), "patient_key": patient(n), "split": "train"}
        for n in range(PATIENTS)
    ]
    path = tmp_path / "p.parquet"
    pq.write_table(pa.Table.from_pylist(change(rows)), path)
    with pytest.raises(FmctError, match=expected) as caught:
        cohort(folder, path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_parts_exclude_other_sources_of_splits(folder: Path, tmp_path: Path) -> None:
    parts = folder / "parts" / "parts.parquet"
    with pytest.raises(FmctError, match=r"parts.parquet: its column split conflicts with folds=3"):
        cohort(folder, parts, folds=3)
    given = pq.read_table(folder / "labels.parquet")
    given = given.append_column("split", pa.array(["test"] * len(given)))
    pq.write_table(given, folder / "split-labels.parquet")
    with pytest.raises(
        FmctError, match=r"split-labels.parquet: its column split conflicts with .*parts.parquet"
    ):
        cohort(folder, parts, labels="split-labels.parquet")
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(FmctError, match=r"text.parquet: not a readable table of parts"):
        cohort(folder, tmp_path / "text.parquet")


def test_labels_inherit_the_split_of_the_parts(tmp_path: Path) -> None:
    new_key(tmp_path / "hmac.key")
    names = Pseudonymizer(tmp_path / "hmac.key")
    part = {"1.2": "train", "1.3": "validation", "1.4": "test"}
    columns = {
        "study_key": [names.study(study) for study in part],
        "patient_key": [names.patient(study, study) for study in part],
        "split": list(part.values()),
    }
    parts = written(tmp_path / "parts.parquet", columns)
    csv, out = tmp_path / "labels.csv", tmp_path / "labels.parquet"
    csv.write_text("study_instance_uid,bleed\n1.4,1\n1.2,0\n1.9,1\n")
    made = key_labels(csv, tmp_path / "hmac.key", out, parts=parts)
    assert (made.studies, made.counts) == (2, {"bleed": (1, 1, 0)})
    assert "1 studies have no part and are left out" in made.notes
    actual = {row["study_key"]: row["split"] for row in pq.read_table(out).to_pylist()}
    assert actual == {names.study("1.4"): "test", names.study("1.2"): "train"}
    csv.write_text("study_instance_uid,bleed,split\n1.4,1,test\n")
    with pytest.raises(FmctError, match=r"labels.csv: has a column split, and so has .*parts.parquet"):
        key_labels(csv, tmp_path / "hmac.key", out, parts=parts)
    csv.write_text("study_instance_uid,bleed\n1.4,1\n")
    new_key(tmp_path / "other.key")
    with pytest.raises(FmctError, match=r"parts.parquet: none of the 1 studies of .*labels.csv have a part"):
        key_labels(csv, tmp_path / "other.key", tmp_path / "other.parquet", parts=parts)
