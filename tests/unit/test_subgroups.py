"""Figures by subgroup: equal to scikit-learn on each group, true gaps detected, invalid tables refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit
from shard_samples import FACTS, make_key, make_record
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from typer.testing import CliRunner

from fmct_hpc.probe.subgroups import MAX_GROUPS, subgroups
from fmct_hpc.probe.sweep.tables import PREDICTIONS
from launch.cli import app
from shards import ShardWriter, finish_dataset
from shards.errors import FmctError

VOLUMES = 400
THICKNESS = (None, 0.625, 1.5, 5.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions that are worse on one vendor's scans; half of the patients have two volumes."""
    out = tmp_path_factory.mktemp("subgroups")
    generator = np.random.default_rng(0)
    with ShardWriter(out / "data", "shard-00000", "zarr") as writer:
        for number in range(VOLUMES):
            thickness = THICKNESS[number % 4]
            facts = {"manufacturer": ("ge", "siemens")[number % 2], "slice_thickness_mm": thickness}
            voxels = np.full((2, 2, 2), number % 7, np.int16)
            record = make_record(
                voxels,
                make_key(number),
                study_key=make_key(number),
                patient_key=make_key(1000 + number - (number % 4 == 3)),
                source_digest=f"{number:064x}",
                facts=FACTS.model_copy(update=facts),
            )
            writer.add(record, voxels)
    finish_dataset(out / "data", "zarr", ["shard-00000"])
    truth = generator.random(VOLUMES) < 0.4
    strength = np.where(np.arange(VOLUMES) % 2, 0.2, 3.0)
    scores = expit(strength * (truth - 0.5) + generator.normal(0, 1, VOLUMES))
    rows = [
        {
            **{
                "encoder": "ours",
                "task": "bleed",
                "method": method,
                "pool": "both",
                "layer": -1,
                "seed": seed,
            },
            **{"fraction": fraction, "shots": None, "split": "id", "key": make_key(number), "fold": 0},
            **{"label": bool(truth[number]), "score": float(scores[number] if method == "logistic" else 0.5)},
        }
        for method in ("logistic", "linear")
        for seed in (0, 1)
        for fraction in (0.1, 1.0)
        for number in range(VOLUMES)
    ]
    pq.write_table(pa.Table.from_pylist(rows, PREDICTIONS), out / "predictions.parquet")
    np.savez(out / "truth.npz", truth=truth, scores=scores)
    return out


def test_figures_of_each_group_equal_scikit_learn(folder: Path) -> None:
    rows = [row for row in subgroups(folder, folder / "data").to_pylist() if row["method"] == "logistic"]
    kept = np.load(folder / "truth.npz")
    truth, scores = kept["truth"], kept["scores"]
    number = np.arange(VOLUMES)
    inside = {
        ("manufacturer", "ge"): number % 2 == 0,
        ("manufacturer", "siemens"): number % 2 == 1,
        ("slice_thickness_mm", "unknown"): number % 4 == 0,
        ("slice_thickness_mm", "below 1.5"): number % 4 == 1,
        ("slice_thickness_mm", "1.5 to 3.5"): number % 4 == 2,
        ("slice_thickness_mm", "3.5 and more"): number % 4 == 3,
    }
    actual = {(row["by"], row["group"]): row for row in rows}
    for key, own in inside.items():
        row = actual[key]
        assert (row["n"], row["positives"]) == (own.sum(), truth[own].sum())
        assert row["auc"] == pytest.approx(roc_auc_score(truth[own], scores[own]))
        assert row["auprc"] == pytest.approx(average_precision_score(truth[own], scores[own]))
        assert row["brier"] == pytest.approx(brier_score_loss(truth[own], scores[own]))
        assert row["gap"] == pytest.approx(row["auc"] - roc_auc_score(truth[~own], scores[~own]))
        assert row["gap_low"] < row["gap"] < row["gap_high"]
    assert actual["manufacturer", "ge"]["gap_low"] > 0.1
    assert actual["manufacturer", "ge"]["patients"] == VOLUMES / 2
    assert actual["kvp", "110 to 130"]["gap"] is None, "all volumes are in it"
    # The gap of a group is minus that of all others, for every resample.
    ge, siemens = actual["manufacturer", "ge"], actual["manufacturer", "siemens"]
    assert [ge["gap_low"], ge["gap_high"]] == pytest.approx([-siemens["gap_high"], -siemens["gap_low"]])


def test_groups_of_a_site_are_read_and_missing_ones_unknown(folder: Path) -> None:
    ages = ["under 60" if number % 3 else "60 and over" for number in range(300)]
    table = pa.table({"study_key": [make_key(number) for number in range(300)], "age": ages})
    pq.write_table(table, folder / "groups.parquet")
    command = [
        "subgroups",
        str(folder),
        "--data",
        str(folder / "data"),
        "--groups",
        str(folder / "groups.parquet"),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    rows = pq.read_table(folder / "subgroups.parquet").to_pylist()
    counts = {r["group"]: r["n"] for r in rows if r["by"] == "age" and r["method"] == "logistic"}
    assert counts == {"60 and over": 100, "under 60": 200, "unknown": 100}
    assert "manufacturer ge: AUC" in result.output
    assert "linear" not in result.output, "scores that are all equal have no gap"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"study_key": ["a"], "age": ["x"]}, "none of its studies is in the dataset"),
        ({"age": ["x"]}, "expected study_key and columns of groups"),
        ({"study_key": [make_key(0)]}, "expected study_key and columns of groups"),
        ({"study_key": [make_key(0)], "age": [71]}, "column age is not text"),
        (
            {"study_key": [make_key(n) for n in range(60)], "name": [f"n{n}" for n in range(60)]},
            f"column name has 60 groups, {MAX_GROUPS} at most",
        ),
    ],
)
def test_a_table_that_does_not_group_is_refused(
    columns: dict[str, list[Any]], message: str, folder: Path, tmp_path: Path
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "groups.parquet")
    with pytest.raises(FmctError, match=message):
        subgroups(folder, folder / "data", tmp_path / "groups.parquet")


def test_predictions_of_another_dataset_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FmctError, match="no predictions"):
        subgroups(tmp_path, folder / "data")
    table = pq.read_table(folder / "predictions.parquet")
    others = pa.array([make_key(9000)] * table.num_rows).dictionary_encode()
    other = table.set_column(table.schema.get_field_index("key"), "key", others)
    pq.write_table(other, tmp_path / "predictions.parquet")
    with pytest.raises(FmctError, match=r"volume .* of its predictions is not in"):
        subgroups(tmp_path, folder / "data")
