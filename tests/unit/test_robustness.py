"""Figures over severities: equal to the sweep at 0, and to an exported classifier on changed volumes."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_samples import make_record
from sklearn.metrics import roc_auc_score
from small_sweep import AFFINE, bright_sweep
from typer.testing import CliRunner

from fmct_hpc.classifier.fit import fit
from fmct_hpc.classifier.folder import write_classifier
from fmct_hpc.classifier.predict import load_classifier
from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.probe.sweep.run import Sweep
from fmct_hpc.robustness import score
from fmct_hpc.robustness.changes import Draw, changed
from fmct_hpc.robustness.config import RobustnessConfig
from fmct_hpc.robustness.run import extracted, robustness
from launch.cli import app
from launch.jobs.progress import progress, progress_of_job
from shards import Dataset, FmctError, ShardWriter, finish_dataset
from shards.progress import VARIABLE, Progress

CHANGES = {"thicker": [30.0], "blur": [], "sharpen": [], "noise": [400.0, 40.0]}
PLACE = ("encoder", "method", "pool", "layer", "task", "split")


def as_config(sweep: SweepConfig, **values: object) -> RobustnessConfig:
    given = sweep.model_dump(exclude_unset=True) | {"changes": CHANGES}
    return RobustnessConfig.model_validate({**given, **values})


def rows_of(table: pa.Table | None) -> list[dict[str, Any]]:
    assert table is not None
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[RobustnessConfig, Path]:
    """A sweep with its results and exported classifiers."""
    folder = tmp_path_factory.mktemp("robust")
    sweep = bright_sweep(folder).model_copy(
        update={"methods": ("logistic", "linear", "neighbours", "attentive"), "pools": ("both", "cls")}
    )
    Sweep(sweep, folder / "swept").run()
    one = {"pools": ("both",), "finetune": sweep.finetune.model_copy(update={"steps": 2, "check_every": 1})}
    for method in ("logistic", "finetune"):
        update = {**one, "methods": (method,)}
        write_classifier(fit(sweep.model_copy(update=update)), folder / f"kept-{method}")
    return as_config(sweep), folder


def test_severity_0_equals_the_sweep_and_finished_units_are_kept(
    swept: tuple[RobustnessConfig, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = swept
    rows = rows_of(robustness(config, folder / "out"))
    own = {
        tuple(r[name] for name in PLACE): r
        for r in pq.read_table(folder / "swept/results.parquet").to_pylist()
    }
    assert len(own) == 7
    for row in rows:
        there = own[tuple(row[name] for name in PLACE)]
        assert (row["n"], row["positives"], row["reason"]) == (there["n"], there["positives"], None)
        if row["severity"] == 0:
            actual = [row[name] for name in ("value", "low", "high")]
            assert actual == pytest.approx([there[name] for name in ("auc", "auc_low", "auc_high")], abs=1e-6)
            assert row["difference"] == row["difference_low"] == row["difference_high"] == 0
        else:
            zero = next(
                r for r in rows if all(r[n] == row[n] for n in (*PLACE, "change")) and not r["severity"]
            )
            assert row["difference"] == pytest.approx(row["value"] - zero["value"])
            assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    steps = [(r["change"], r["severity"]) for r in rows[:5]]
    assert steps == [("thicker", 0), ("thicker", 30), ("noise", 0), ("noise", 40), ("noise", 400)]
    assert len(rows) == len(own) * len(steps)

    # One more severity, in two shares: nothing else is scored again.
    scored = []
    real = score.write_scores

    def write_scores(*given: Any) -> None:
        scored.append(given[4:6])
        real(*given)

    monkeypatch.setattr("fmct_hpc.robustness.run.write_scores", write_scores)
    more = as_config(config, changes={**CHANGES, "noise": [40.0, 200.0, 400.0]})
    assert robustness(more, folder / "out", share=(0, 2)) is None
    assert robustness(more, folder / "out", share=(1, 2)) is None
    assert scored == [("noise", 200.0)]
    after = [r for r in rows_of(robustness(more, folder / "out")) if r["severity"] != 200]
    assert scored == [("noise", 200.0)]
    assert after == rows


def test_shares_require_extracted_features_and_are_counted(
    swept: tuple[RobustnessConfig, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = swept
    changes = {"thicker": [], "blur": [], "sharpen": [], "noise": [40.0]}
    own = {"features": tmp_path / "features", "methods": ["logistic"], "pools": ["both"], "changes": changes}
    fresh = as_config(config, **own)
    with pytest.raises(FmctError, match="extract"):
        robustness(fresh, tmp_path / "out", share=(0, 2))
    extracted(fresh, tmp_path / "out")
    for number in range(2):
        monkeypatch.setenv(VARIABLE, str(tmp_path / f"7_{number}.ledgers.json"))
        assert robustness(fresh, tmp_path / "out", share=(number, 2)) is None
        assert progress_of_job(tmp_path, f"7_{number}") == Progress(1, 1)
        units = list((tmp_path / "out" / "units").iterdir())
        assert len(units) == number + 1
        # All versions use this name; a missing column would be read as null.
        assert {tuple(pq.read_schema(unit).names) for unit in units} == {("judge", "row", "said")}
    assert progress(tmp_path / "out") == Progress(2, 2)


def test_exported_classifiers_score_changed_volumes_as_when_changed_elsewhere(
    swept: tuple[RobustnessConfig, Path],
) -> None:
    config, folder = swept
    data, change = Dataset.open(folder / "data"), ("noise", 400.0)
    with ShardWriter(folder / "noisy", "shard-00000", "zarr") as writer:
        for number in range(len(data)):
            key = data.record(number).key
            voxels = changed(data.read(number), data.info.spacing_mm, *change, Draw(0, key))
            places = {"spacing_mm": (12.0, 12.0, 12.0), "affine": AFFINE}
            writer.add(make_record(voxels, key, study_key=key, patient_key=key, **places), voxels)
    finish_dataset(folder / "noisy", "zarr", ["shard-00000"])
    results = pq.read_table(folder / "swept/predictions.parquet").to_pylist()
    labels = {row["key"]: row["label"] for row in results}
    kept = [folder / "kept-logistic", folder / "kept-finetune"]
    rows = rows_of(robustness(config, folder / "kept-out", kept))
    for path, method in zip(kept, ("logistic", "finetune"), strict=True):
        expected = {p.key: p.answers["bright"].score for p in load_classifier(path).predict(folder / "noisy")}
        (row,) = [r for r in rows if r["method"] == method and (r["change"], r["severity"]) == change]
        truth = list(labels.values())
        assert row["value"] == pytest.approx(
            roc_auc_score(truth, [expected[key] for key in labels]), abs=1e-6
        )
    of_sweep = pq.read_table(folder / "out/robustness.parquet").to_pylist()
    same = [r for r in of_sweep if (r["method"], r["pool"]) == ("logistic", "both")]
    own = [r for r in rows if r["method"] == "logistic"]
    assert [r["value"] for r in own if r["severity"] in (0, 30, 400)] == pytest.approx(
        [r["value"] for r in same if r["severity"] in (0, 30, 400)], abs=1e-6
    )


def test_folds_are_scored_by_the_classifier_not_trained_on_them(swept: tuple[RobustnessConfig, Path]) -> None:
    config, folder = swept
    crossed = as_config(
        config,
        folds=3,
        methods=["logistic"],
        changes={"thicker": [30.0], "blur": [], "sharpen": [], "noise": []},
    )
    Sweep(crossed, folder / "crossed").run()
    (own,) = [r for r in pq.read_table(folder / "crossed/results.parquet").to_pylist() if r["pool"] == "both"]
    rows = rows_of(robustness(crossed, folder / "crossed-out"))
    (zero,) = [r for r in rows if r["pool"] == "both" and not r["severity"]]
    assert own["n"] == 60
    assert [zero[n] for n in ("value", "low", "high")] == pytest.approx(
        [own[n] for n in ("auc", "auc_low", "auc_high")], abs=1e-6
    )


def test_unsupported_robustness_requests_are_refused(
    swept: tuple[RobustnessConfig, Path], tmp_path: Path
) -> None:
    config, folder = swept
    with pytest.raises(FmctError, match="--classifier"):
        robustness(as_config(config, methods=["finetune"]), tmp_path / "a")
    other = as_config(config, split={"seed": 5})
    with pytest.raises(FmctError, match="another dataset, labels or split"):
        robustness(other, tmp_path / "b", [folder / "kept-logistic"])
    with pytest.raises(FmctError, match="given already"):
        robustness(config, tmp_path / "c", [folder / "kept-logistic"] * 2)
    with pytest.raises(FmctError, match="pretraining data is not available"):
        robustness(as_config(config, allow_unknown_pretraining=False), tmp_path / "d")
    with pytest.raises(FmctError, match=r"slices of 7\.5 mm are no thicker"):
        robustness(as_config(config, changes={"thicker": [30.0, 7.5]}), tmp_path / "f")
    with pytest.raises(ValueError, match="no change has a severity"):
        as_config(config, changes={name: [] for name in CHANGES})
    result = CliRunner().invoke(
        app, ["robustness", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "e")]
    )
    assert isinstance(result.exception, FmctError)
