"""Several out-of-distribution test sets in one sweep: a separate split each, in all tables."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score
from test_sweep import config, rows
from test_sweep import folder as folder
from typer.testing import CliRunner

from fmct_hpc.probe.cohort import read_cohort
from fmct_hpc.probe.labels import LabelTable
from fmct_hpc.probe.splits import SplitConfig
from fmct_hpc.probe.sweep.run import Sweep
from launch.cli import app
from preprocess.labels.plain import read as read_plain
from shards import Dataset, FmctError
from shards.ood_table import ood_of_patients
from shards.parts import PARTS_NAME, PartsTable

NAMES = {"ood": "ood", "a": "ood:site-a", "b": "ood:2024.b"}


def named(folder: Path, sets: tuple[str, ...]) -> pa.Table:
    """The labels, with the patients of `ood` divided into several such sets."""
    table = pq.read_table(folder / "split-labels.parquet")
    index = Dataset.open(folder / "data").index
    patient = dict(zip(index["study_key"].to_pylist(), index["patient_key"].to_pylist(), strict=True))
    splits = [
        NAMES[sets[int(patient[study], 16) // 5 % len(sets)]] if split == "ood" else split
        for study, split in zip(table["study_key"].to_pylist(), table["split"].to_pylist(), strict=True)
    ]
    return table.set_column(table.schema.get_field_index("split"), "split", pa.array(splits))


def test_each_named_set_is_a_split_and_others_stay(folder: Path, tmp_path: Path) -> None:
    one_cell = {"methods": ["logistic"], "fractions": [1.0], "shots": [], "seeds": [0], "tasks": ["bleed"]}
    pq.write_table(named(folder, ("ood", "a", "b")), tmp_path / "labels.parquet")
    Sweep(config(folder, **one_cell), tmp_path / "one").run()
    Sweep(config(folder, **one_cell, labels=tmp_path / "labels.parquet"), tmp_path / "several").run()
    before, after = (rows(tmp_path / out) for out in ("one", "several"))
    assert {row["split"] for row in after} == {"id", *NAMES.values()}
    # All choices are made on validation, so named sets do not affect the first test set.
    assert [r for r in after if r["split"] == "id"] == [r for r in before if r["split"] == "id"]
    whole = {row["encoder"]: row["n"] for row in before if row["split"] == "ood"}
    assert {e: sum(r["n"] for r in after if r["encoder"] == e and r["split"] != "id") for e in whole} == whole
    predictions = rows(tmp_path / "several", "predictions")
    for row in after:
        own = [r for r in predictions if (r["encoder"], r["split"]) == (row["encoder"], row["split"])]
        area = roc_auc_score([r["label"] for r in own], [r["score"] for r in own])
        assert row["auc"] == pytest.approx(area)
    scores = [
        {(r["encoder"], r["key"]): r["score"] for r in t}
        for t in (predictions, rows(tmp_path / "one", "predictions"))
    ]
    assert scores[0] == scores[1]
    assert {r["split"] for r in rows(tmp_path / "several", "comparisons")} == {"id", *NAMES.values()}


def test_parts_may_name_ood_sets(folder: Path, tmp_path: Path) -> None:
    table = named(folder, ("a", "b"))
    index = Dataset.open(folder / "data").index
    patient = dict(zip(index["study_key"].to_pylist(), index["patient_key"].to_pylist(), strict=True))
    studies = table["study_key"].to_pylist()
    columns = {
        "study_key": studies,
        "patient_key": [patient[key] for key in studies],
        "split": table["split"],
    }
    pq.write_table(pa.table(columns), tmp_path / PARTS_NAME)
    PartsTable.read(tmp_path / PARTS_NAME).require_splits()
    cohort = read_cohort(
        folder / "data", folder / "labels.parquet", ("bleed",), SplitConfig(), None, tmp_path / PARTS_NAME
    )
    assert cohort.splits is not None
    assert set(np.unique(cohort.splits).tolist()) == {"train", "validation", "test", NAMES["a"], NAMES["b"]}
    assert len(cohort.tested()) == len(
        set(cohort.patient_keys[~np.isin(cohort.splits, ["train", "validation"])])
    )


def test_a_site_column_makes_separate_parts(folder: Path, tmp_path: Path) -> None:
    index = Dataset.open(folder / "data").index
    studies, patients = index["study_key"].to_pylist(), index["patient_key"].to_pylist()
    sites = ["b" if n in (3, 50) else "c" if n == 60 else None for n in range(len(studies))]
    pq.write_table(pa.table({"study_key": studies, "site": pa.array(sites)}), tmp_path / "sites.parquet")
    command = ["shards", "split", str(folder / "data"), "train=0.6", "validation=0.2", "test=0.2"]
    ends = (
        ["--out", str(tmp_path / "plain")],
        ["--out", str(tmp_path / "out"), "--ood", str(tmp_path / "sites.parquet")],
    )
    for end in ends:
        result = CliRunner().invoke(app, [*command, *end])
        assert result.exit_code == 0, (result.output, result.exception)
    before, after = (
        {r["study_key"]: r["split"] for r in pq.read_table(tmp_path / out / PARTS_NAME).to_pylist()}
        for out in ("plain", "out")
    )
    # Volumes 2 and 3 are of one patient, and 50 and 51; each patient is in a set with both.
    named = {studies[n]: "ood:b" for n in (2, 3, 50, 51)} | {studies[60]: "ood:c"}
    assert after == before | named
    assert len(Dataset.open(tmp_path / "out" / "ood-b")) == 4
    PartsTable.read(tmp_path / "out" / PARTS_NAME).require_splits()
    two = {"study_key": studies[2:4], "site": ["b", "c"]}
    for columns, message in (
        (two, f"patient {patients[2]} is in"),
        ({"study_key": studies[:1], "site": ["b/c"]}, "row 1"),
        ({"study_key": ["f" * 32], "site": ["b"]}, "same key file"),
        ({"study_key": studies[:1], "site": [1]}, "column site is not text"),
        ({"study_key": studies[:1]}, "one column"),
    ):
        pq.write_table(pa.table(columns), tmp_path / "bad.parquet")
        with pytest.raises(FmctError, match=message):
            ood_of_patients(tmp_path / "bad.parquet", studies, patients)


@pytest.mark.parametrize("split", ["ood:", "ood:a/b", "ood:.a", "OOD:a", "test:a", "ood:a:b"])
def test_other_names_are_refused(split: str, folder: Path, tmp_path: Path) -> None:
    table = pq.read_table(folder / "split-labels.parquet")
    splits = pa.array([split, *table["split"].to_pylist()[1:]])
    pq.write_table(
        table.set_column(table.schema.get_field_index("split"), "split", splits), tmp_path / "l.parquet"
    )
    with pytest.raises(FmctError, match="ood:NAME"):
        LabelTable.read(tmp_path / "l.parquet")
    (tmp_path / "l.csv").write_text(f"study_instance_uid,bleed,split\n1.2,0,{split}\n1.3,1,ood:b\n")
    with pytest.raises(FmctError, match="row 2, column split"):
        read_plain(tmp_path / "l.csv")
