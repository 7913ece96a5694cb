"""Results of probes and sweeps: test patients, existing results, and reasons for missing figures."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from test_sweep_sources import KEYS, write_volumes, write_weights
from typer.testing import CliRunner

from fmct_hpc.probe.config import ProbeConfig, SweepConfig
from fmct_hpc.probe.run import ENCODERS, HEADS, probe
from fmct_hpc.probe.sweep.run import Sweep
from launch.cli import app
from shards import FmctError
from shards.lock import LOCK_NAME

SPLITS = ("train", "train", "test", "validation", "ood")
"""Alternating over five patients."""
POSITIVE = [number // 5 % 2 for number in range(len(KEYS))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes, two encoders, and labels with and without splits."""
    out = tmp_path_factory.mktemp("answers")
    write_volumes(out / "data", 30)
    write_weights(out / "run", 1)
    write_weights(out / "other-run", 2)
    labels = {"study_key": KEYS, "bleed": POSITIVE}
    pq.write_table(pa.table(labels), out / "labels.parquet")
    labels |= {"split": [SPLITS[number % 5] for number in range(len(KEYS))]}
    pq.write_table(pa.table(labels), out / "split.parquet")
    return out


def probe_config(folder: Path, **values: object) -> ProbeConfig:
    given = {"data": folder / "data", "labels": folder / "labels.parquet", "bootstrap": 20}
    return ProbeConfig.model_validate(given | values)


def probed(folder: Path, out: Path, run: str = "run", **values: object) -> dict[str, Any]:
    probe(folder / run, probe_config(folder, **values), out, lambda done, total: None)
    actual: dict[str, Any] = json.loads((out / "results.json").read_text())
    return actual


def grid(folder: Path, **values: object) -> dict[str, object]:
    """A sweep as created by `fmct probe`."""
    weights = str(folder / "run")
    given = {
        "data": str(folder / "data"),
        "labels": str(folder / "split.parquet"),
        "features": str(folder / "features"),
        "encoders": [
            {"name": "trained", "weights": weights},
            {"name": "untrained", "weights": weights, "untrained": 0},
        ],
        "methods": list(HEADS),
        "seeds": [0],
        "bootstrap": 20,
        "allow_unknown_pretraining": True,
    }
    return given | values


def tables(out: Path) -> list[pa.Table]:
    return [pq.read_table(out / f"{name}.parquet") for name in ("results", "predictions", "comparisons")]


def test_a_probe_tests_on_the_split_of_the_labels_like_a_sweep(folder: Path, tmp_path: Path) -> None:
    by_folds = probed(folder, tmp_path / "folds")
    by_split = probed(folder, tmp_path / "split", labels=folder / "split.parquet")
    assert {row["volumes"] for row in by_folds["rows"]} == {len(KEYS)}
    tested = {(row["split"], row["volumes"]) for row in by_split["rows"]}
    assert tested == {("id", len(KEYS) // 5), ("ood", len(KEYS) // 5)}
    assert len(by_split["rows"]) == 2 * len(HEADS) * len(ENCODERS)
    Sweep(SweepConfig.model_validate(grid(folder)), tmp_path / "swept").run()
    for probes, sweeps in zip(tables(tmp_path / "split"), tables(tmp_path / "swept"), strict=True):
        assert probes.num_rows
        assert probes.equals(sweeps)


def test_folds_with_labels_that_have_splits_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FmctError, match=r"split\.parquet: its column split .* folds=3"):
        probed(folder, tmp_path, labels=folder / "split.parquet", folds=3)
    with pytest.raises(FmctError, match=r"split\.parquet: its column split .* folds=3"):
        Sweep(SweepConfig.model_validate(grid(folder, folds=3)), tmp_path).plan()


def swept(folder: Path, out: Path, tmp_path: Path, **values: object) -> tuple[int, str]:
    """Exit code and output of `fmct sweep`."""
    recipe = tmp_path / "grid.yaml"
    recipe.write_text(yaml.safe_dump(grid(folder, **values)))
    result = CliRunner().invoke(app, ["sweep", str(recipe), "--out", str(out)])
    return (result.exit_code if result.exception is None else exit_code(result.exception)), result.output


def exit_code(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    assert isinstance(error, FmctError), error
    return error.exit_code


def test_a_sweep_without_any_figure_fails_with_the_reason(folder: Path, tmp_path: Path) -> None:
    code, output = swept(folder, tmp_path / "none", tmp_path, fractions=[], shots=[500], repeats=2)
    assert code == 2
    assert "few-training-patients" in output
    rows = pq.read_table(tmp_path / "none" / "results.parquet").to_pylist()
    assert {row["reason_code"] for row in rows} == {"few-training-patients"}
    assert json.loads((tmp_path / "none/summary.json").read_text())["reasons"] == {
        "few-training-patients": len(rows)
    }
    code, output = swept(folder, tmp_path / "some", tmp_path, shots=[500], repeats=2)
    assert code == 0, "some cells have figures"
    assert "few-training-patients" in output
    assert "0." in output, "and they are printed"


@pytest.mark.parametrize(
    ("validation", "code", "lacking"),
    [
        (0, "no-positive-validation", {"balanced_accuracy", "specificity_at"}),
        (1, "no-negative-validation", {"balanced_accuracy", "sensitivity_at"}),
    ],
)
def test_an_operating_point_that_cannot_be_chosen_has_a_reason(
    folder: Path, tmp_path: Path, validation: int, code: str, lacking: set[str]
) -> None:
    labels = pq.read_table(folder / "split.parquet").to_pydict()
    for number, split in enumerate(labels["split"]):
        if split == "validation":
            labels["bleed"][number] = validation
    pq.write_table(pa.table(labels), tmp_path / "labels.parquet")
    exit, output = swept(folder, tmp_path / "out", tmp_path, labels=str(tmp_path / "labels.parquet"))
    assert exit == 0
    assert code in output
    assert "nan" not in output
    for row in pq.read_table(tmp_path / "out" / "results.parquet").to_pylist():
        assert row["threshold_reason"] == code
        points = ("balanced_accuracy", "sensitivity_at", "specificity_at")
        assert {name for name in points if row[name] != row[name]} == lacking
        assert row["auc"] == row["auc"]


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and modification time of every file except the lock."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LOCK_NAME)
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_results_of_another_run_dataset_or_labels_are_not_replaced(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    probed(folder, out)
    write_volumes(tmp_path / "data", -30)
    shutil.copyfile(folder / "split.parquet", tmp_path / "labels.parquet")
    before = state(out)
    others: dict[str, dict[str, Any]] = {
        "run": {"run": "other-run"},
        "dataset": {"data": tmp_path / "data"},
        "labels": {"labels": tmp_path / "labels.parquet"},
    }
    for what, values in others.items():
        with pytest.raises(FmctError, match=rf"out: holds results of the {what} /.*another folder"):
            probed(folder, out, **values)
    with pytest.raises(FmctError, match="out: holds results of `fmct probe`"):
        Sweep(SweepConfig.model_validate(grid(folder)), out).run()
    assert state(out) == before


def test_the_same_request_resumes_after_its_inputs_moved(folder: Path, tmp_path: Path) -> None:
    """Moved inputs are recognised by their digests; inputs changed in place are probed again."""
    for name in ("run", "data"):
        shutil.copytree(folder / name, tmp_path / name)
    shutil.copyfile(folder / "labels.parquet", tmp_path / "labels.parquet")
    first = probed(folder, tmp_path / "out")
    assert probed(tmp_path, tmp_path / "out") == first
    shutil.rmtree(tmp_path / "run")
    write_weights(tmp_path / "run", 5)
    assert probed(tmp_path, tmp_path / "out")["step"] == 5


def test_results_without_a_recorded_request_are_foreign_unless_they_share_units(
    folder: Path, tmp_path: Path
) -> None:
    """As written by versions up to 0.1.0."""
    out = tmp_path / "out"
    first = probed(folder, out)
    (out / "subject.json").unlink()
    assert probed(folder, out) == first
    (out / "subject.json").unlink()
    with pytest.raises(FmctError, match=r"out: already holds plan\.json"):
        probed(folder, out, run="other-run")
    write_weights(tmp_path / "a-run", 3)
    before = state(tmp_path / "a-run")
    with pytest.raises(FmctError, match=r"a-run: already holds encoder\.safetensors with unknown inputs"):
        probed(folder, tmp_path / "a-run")
    assert state(tmp_path / "a-run") == before
