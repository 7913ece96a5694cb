"""An exported classifier: the sweep's scores on the same volumes, calibration, and incomplete files."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from documents import REPOSITORY, blocks
from safetensors.numpy import load_file, save_file
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from small_sweep import AFFINE, bright_sweep
from typer.testing import CliRunner

import fmct_hpc
from fmct_hpc.classifier.calibration import calibrated
from fmct_hpc.classifier.fit import fit
from fmct_hpc.classifier.folder import write_classifier
from fmct_hpc.classifier.table import PART_VOLUMES, Predictions
from fmct_hpc.inference.readers import Scan, read_scans
from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.probe.statistics.operating_point import rates
from fmct_hpc.probe.sweep.run import Sweep
from fmct_hpc.train.export import EncoderInfo
from launch.cli import app
from launch.jobs.progress import progress, progress_of_job
from shards import Dataset
from shards.errors import FmctError
from shards.progress import VARIABLE
from shards.share import Share


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    return bright_sweep(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def swept(grid: SweepConfig) -> Path:
    out = grid.features.parent / "out"
    Sweep(grid, out).run()
    return out


def kept(grid: SweepConfig, method: str, out: Path) -> Path:
    write_classifier(fit(grid, method=method), out)
    return out


@pytest.fixture(scope="module")
def logistic(grid: SweepConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kept(grid, "logistic", tmp_path_factory.mktemp("logistic"))


@pytest.mark.parametrize("method", ["logistic", "linear", "neighbours", "attentive", "finetune"])
def test_scores_equal_those_of_the_sweep(method: str, grid: SweepConfig, swept: Path, tmp_path: Path) -> None:
    rows = pq.read_table(swept / "predictions.parquet").to_pylist()
    theirs = {row["key"]: row["score"] for row in rows if row["method"] == method}
    assert len(theirs) > 10
    classifier = fmct_hpc.load_classifier(kept(grid, method, tmp_path / "kept"))
    ours = {scan.key: scan.answers["bright"] for scan in classifier.predict(grid.data)}
    assert {key: ours[key].score for key in theirs} == pytest.approx(theirs, abs=1e-6)
    assert set(ours) == set(Dataset.open(grid.data).index["key"].to_pylist())
    task = classifier.record.tasks[0]
    assert {answer.positive for answer in ours.values()} == {True, False}
    assert task.thresholds.balanced is not None
    assert all((a.score >= task.thresholds.balanced) == a.positive for a in ours.values())
    results = pq.read_table(swept / "results.parquet").to_pylist()
    (row,) = (row for row in results if row["method"] == method)
    assert (task.train, task.validation) == (row["n_train"], row["n_validation"])


def test_calibration_equals_a_logistic_regression_on_platts_targets() -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(0, 1.5, 400)
    labels = generator.random(400) < expit(truth)
    scores = expit(3 * truth + 1)  # overconfident, and shifted
    actual = calibrated(scores, labels)
    assert actual is not None
    # Each volume counts as both classes, weighted by its target.
    positives, negatives = labels.sum(), (~labels).sum()
    target = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    logits = np.log(scores / (1 - scores))
    twice = LogisticRegression(C=np.inf, tol=1e-10).fit(
        np.tile(logits, 2)[:, None], np.repeat([1, 0], 400), sample_weight=np.r_[target, 1 - target]
    )
    assert [actual.slope, actual.intercept] == pytest.approx(
        [twice.coef_[0, 0], twice.intercept_[0]], abs=1e-3
    )
    assert actual(scores).mean() == pytest.approx(target.mean(), abs=1e-4)
    assert np.abs(actual(scores) - expit(truth)).max() < 0.1 < np.abs(scores - expit(truth)).max()
    apart = calibrated(np.r_[np.zeros(9), np.ones(9)], np.repeat([False, True], 9))
    assert apart is not None
    assert np.isfinite([apart.slope, apart.intercept]).all()
    assert calibrated(np.full(5, 0.3), np.zeros(5, bool)) is None


def test_shares_of_an_array_merge_to_the_result_of_one_run(
    grid: SweepConfig, logistic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmct_hpc.classifier.table.PART_VOLUMES", 7)
    (tmp_path / "empty").mkdir()
    paths = [grid.data, tmp_path / "empty", grid.data]
    whole = Predictions(paths, logistic, tmp_path / "whole")
    whole.run()
    assert whole.collect()[:3] == (120, 19, 19)
    shared = Predictions(paths, logistic, tmp_path / "shared")
    with pytest.raises(FmctError, match="no predictions of these paths yet"):
        shared.collect()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "shared/slurm/12_1.ledgers.json"))
    shared.run(Share(1, 3))
    made = shared.collect().done
    assert 0 < made < 19
    counted = progress(tmp_path / "shared")
    assert counted is not None
    assert counted[:2] == (made, 19)
    assert progress_of_job(tmp_path / "shared/slurm", "12_1")[:2] == (made, made)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "shared" / "parts").iterdir()}
    shared.run()
    assert (
        before.items() <= {f: f.stat().st_mtime_ns for f in (tmp_path / "shared" / "parts").iterdir()}.items()
    )
    assert shared.collect() == whole.collect()
    table, other = (pq.read_table(tmp_path / name / "predictions.parquet") for name in ("whole", "shared"))
    assert table.equals(other)
    assert [row["path"] for row in table.to_pylist() if row["reason"]] == [1]
    assert str(tmp_path) not in str(table.to_pylist())
    assert PART_VOLUMES > 7


def test_a_refused_path_is_retried(
    grid: SweepConfig, logistic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temporarily missing mount, in place of a DICOM exam."""

    def failing(*given: object) -> Iterator[Scan]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
        yield

    def back(path: Path, info: EncoderInfo, *given: object) -> Iterator[Scan]:
        yield from read_scans(grid.data, info)

    predictions = Predictions([tmp_path / "exam"], logistic, tmp_path / "out")
    monkeypatch.setattr("fmct_hpc.classifier.table.read_scans", failing)
    predictions.run()
    assert predictions.collect()[:3] == (0, 1, 1)
    monkeypatch.setattr("fmct_hpc.classifier.table.read_scans", back)
    predictions.run()
    assert predictions.collect() == (60, 1, 1, (), "scans")


def written(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("method", "answers"),
    [
        ("logistic", [(0.000335, 0.376263), (0.042588, 0.547169), (0.969935, 0.754935)]),
        ("neighbours", [(0.0, 0.333333), (0.0, 0.333333), (1.0, 0.875)]),
        ("attentive", [(0.078528, 0.385736), (0.416257, 0.578176), (0.91365, 0.786898)]),
    ],
)
def test_classifiers_of_earlier_versions_predict_the_same(
    method: str, answers: list[tuple[float, float]]
) -> None:
    classifier = fmct_hpc.load_classifier(Path(__file__).parents[1] / "data" / "classifiers" / method)
    affine = np.reshape(AFFINE, (4, 4)).astype(float)
    ramp = np.broadcast_to(np.arange(16, dtype=np.int16), (16, 16, 16))
    scans = [Scan(32 * "0", ramp + np.int16(hu), affine) for hu in (20, 30, 40)]
    actual = [scan.answers["bright"] for scan in classifier.of_scans(scans)]
    assert np.array([(one.score, one.probability) for one in actual]) == pytest.approx(
        np.array(answers), abs=1e-4
    )
    assert [one.positive for one in actual] == [False, False, True]


def test_the_documents_lines_of_python_run(
    grid: SweepConfig,
    logistic: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "classifiers").mkdir()
    (tmp_path / "classifiers/first").symlink_to(logistic)
    (tmp_path / "exams").mkdir()
    (tmp_path / "exams/new").symlink_to(grid.data)
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(REPOSITORY / "docs/probes.md", "python", "A classifier for new scans")
    exec(code)
    assert capsys.readouterr().out.count("'bright'") == 60


def test_predictions_of_another_classifier_are_not_replaced(
    grid: SweepConfig, logistic: Path, tmp_path: Path
) -> None:
    Predictions([grid.data], logistic, tmp_path / "out").run()
    other = kept(grid, "neighbours", tmp_path / "other")
    with pytest.raises(FmctError, match="holds results of"):
        Predictions([grid.data], other, tmp_path / "out").run()
    with pytest.raises(FmctError, match="holds results of"):
        write_classifier(fit(grid, method="linear"), other)


def forged(folder: Path, name: str) -> None:
    """Another valid file in place of a classifier's."""
    arrays = load_file(folder / name)
    changed = {key: np.asarray(array + array.dtype.type(1)) for key, array in arrays.items()}
    save_file(changed, folder / name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "classifier.json").unlink(), "no classifier.json"),
        (lambda folder: (folder / "classifier.json").write_text("{}"), "damaged"),
        (lambda folder: forged(folder, "heads.safetensors"), "heads.safetensors: missing, or its digest"),
        (lambda folder: forged(folder, "encoder.safetensors"), "encoder.safetensors: missing, or its digest"),
        (lambda folder: (folder / "heads.safetensors").unlink(), "heads.safetensors: missing, or its digest"),
    ],
)
def test_incomplete_files_are_refused(
    damage: Callable[[Path], object], message: str, logistic: Path, tmp_path: Path
) -> None:
    shutil.copytree(logistic, tmp_path / "kept")
    damage(tmp_path / "kept")
    with pytest.raises(FmctError, match=message):
        fmct_hpc.load_classifier(tmp_path / "kept")


def test_an_encoder_of_other_input_is_another_encoder(logistic: Path, tmp_path: Path) -> None:
    shutil.copytree(logistic, tmp_path / "kept")
    info = json.loads((tmp_path / "kept" / "encoder.json").read_text())
    info["data"]["windows"] = [[0, 1000], *info["data"]["windows"][1:]]
    (tmp_path / "kept" / "encoder.json").write_text(json.dumps(info))
    with pytest.raises(FmctError, match="not the encoder of the classifier"):
        fmct_hpc.load_classifier(tmp_path / "kept")


def test_a_sweep_of_several_cells_needs_a_choice(grid: SweepConfig, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({}, {}, "several of --method; choose one"),
        ({}, {"method": "forest"}, "has no method forest"),
        (
            {"pools": ("cls", "mean")},
            {"method": "logistic"},
            "several layers, pools, samples or label budgets",
        ),
        ({"folds": 3}, {"method": "logistic"}, "folds: cross-validation"),
        ({}, {"method": "logistic", "tasks": ["dark"]}, "no task dark"),
    ]
    for values, wanted, message in cases:
        with pytest.raises(FmctError, match=message):
            fit(grid.model_copy(update=values), **wanted)


def test_commands_from_a_sweep_to_a_table(grid: SweepConfig, swept: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "sweep.yaml"
    recipe.write_text(grid.model_dump_json())
    keep = ["export-classifier", str(recipe), "--method", "logistic", "--out", str(tmp_path / "kept")]
    result = CliRunner().invoke(app, keep)
    assert result.exit_code == 0, result.output
    command = [
        "predict",
        str(grid.data),
        "--classifier",
        str(tmp_path / "kept"),
        "--out",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    table = pq.read_table(tmp_path / "out" / "predictions.parquet")
    assert table.schema.field("probability").type == pa.float64()
    labels = dict(zip(*labels_of(grid), strict=True))
    truth = np.array([labels[key] for key in table["key"].to_pylist()]) == 1
    actual = rates(table["score"].to_numpy(), truth, 0.5)
    assert actual.balanced_accuracy > 0.9


def labels_of(grid: SweepConfig) -> tuple[list[str], list[int]]:
    table = pq.read_table(grid.labels)
    return table["study_key"].to_pylist(), table["bright"].to_pylist()
