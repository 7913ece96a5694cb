"""`fmct benchmark`: two tasks of tiny volumes, one with another scanner as its second test set."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from peer_folders import dinov2
from small_sweep import bright_sweep
from typer.testing import CliRunner

from fmct_hpc.benchmark.config import BenchmarkConfig
from fmct_hpc.benchmark.run import Benchmark
from fmct_hpc.classifier.fit import fit
from fmct_hpc.probe.config import SweepConfig
from launch.cli import app
from launch.config import load
from launch.report.benchmark import write_page
from shards.errors import FmctError

RECIPES = Path(__file__).parents[2] / "launch" / "recipes"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark of our encoder, the same untrained, and a 2D one, on two datasets."""
    folder = tmp_path_factory.mktemp("benchmark")
    bright_sweep(folder)
    dinov2(folder / "dinov2")
    labels = pq.read_table(folder / "labels.parquet")
    numbers = np.arange(len(labels))
    splits = np.select([numbers < 24, numbers < 34, numbers < 48], ["train", "validation", "test"], "ood")
    scanners = labels.append_column("split", pa.array(splits))
    pq.write_table(scanners, folder / "scanners.parquet")
    whole = {
        "datasets": [
            {"name": "hashed", "data": "data", "labels": "labels.parquet", "split": {"test": 0.4}},
            {"name": "other-scanner", "data": "data", "labels": "scanners.parquet", "about": "Two scanners."},
        ],
        "encoders": [
            {"name": "ours", "weights": "ours"},
            {"name": "drawn", "weights": "ours", "untrained": 3},
            {
                **{"name": "dinov2", "peer": "slices", "weights": "dinov2"},
                "arguments": {"view_size": [4, 14, 14], "field_mm": 192},
            },
        ],
        **{"methods": ["logistic"], "seeds": [0], "fractions": [0.5, 1.0], "bootstrap": 50},
        **{"attentive": {"steps": 20}, "allow_unknown_pretraining": True},
    }
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(whole))
    return folder / "benchmark.yaml"


def run(file: Path, out: str, *options: str) -> str:
    result = CliRunner().invoke(app, ["benchmark", str(file), "--out", out, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def holm(p: list[float]) -> list[float]:
    """Holm 1979, by definition: the lowest level at which the sequential test rejects."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    for rank, place in enumerate(order):
        adjusted[place] = min(1, max((len(p) - k) * p[order[k]] for k in range(rank + 1)))
    return adjusted.tolist()


def test_two_datasets_become_one_page(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    output = run(file, "out")
    results = pq.read_table("out/results.parquet").to_pylist()
    with_figures = [row for row in results if row["reason"] is None]
    assert {(r["dataset"], r["split"]) for r in with_figures} == {
        *(("hashed", "id"), ("other-scanner", "id"), ("other-scanner", "ood"))
    }
    assert {r["encoder"]: r["leakage"] for r in results} == {
        **{"ours": "unknown", "drawn": "unseen", "dinov2": "unknown"}
    }
    bright = {r["encoder"]: r for r in with_figures if r["task"] == "bright" and r["fraction"] == 1}
    assert bright["dinov2"]["auc"] == bright["ours"]["auc"] == 1.0  # brightness alone determines the label

    # The sweeps equal those of `fmct sweep` in separate folders; the correction is over both.
    comparisons = pq.read_table("out/comparisons.parquet").to_pylist()
    tables = [Path("out") / name / "comparisons.parquet" for name in ("hashed", "other-scanner")]
    own = [row for table in tables for row in pq.read_table(table).to_pylist()]
    assert [{**r, "dataset": None, "p_holm_all": None} for r in comparisons] == [
        {"dataset": None, **r, "p_holm_all": None} for r in own
    ]
    one = [r for r in comparisons if (r["method"], r["fraction"]) == ("logistic", 1.0)]
    assert {(r["dataset"], r["split"]) for r in one} == {(r["dataset"], r["split"]) for r in with_figures}
    assert [r["p_holm_all"] for r in one] == pytest.approx(holm([r["p"] for r in one]))
    assert all(r["p_holm_all"] >= r["p_holm"] for r in one)

    page, card = Path("out/benchmark.html").read_text(), Path("out/benchmark.md").read_text()
    for text in (page, card):
        for word in ("dinov2, slice by slice", "Apache-2.0", "Two scanners.", "unseen"):
            assert word in text
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    shown = next(r for r in with_figures if r["encoder"] == "drawn" and r["split"] == "ood")
    assert "{auc:.3f} [{auc_low:.3f}, {auc_high:.3f}]".format(**shown) in page
    assert "{auprc:.3f} [{auprc_low:.3f}, {auprc_high:.3f}]".format(**shown) in card.replace("\\", "")
    assert "hashed: " in output

    # Finished units are kept, and permissions do not affect them.
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("units/*")}
    assert before
    run(file, "out", "--collect")
    assert "0 units computed" in run(file, "out", "--share", "0/1")
    assert before == {path: path.stat().st_mtime_ns for path in Path("out").rglob("units/*")}
    assert Path("out/benchmark.html").read_text() == page


def test_a_cluster_runs_it_task_by_task(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan, extraction and grid by task numbers over both datasets, then the page."""
    monkeypatch.chdir(file.parent)
    grid = ["methods=[attentive]", "fractions=[1.0]", "task_minutes=0.1"]
    plan = run(file, "cluster", "--plan", *grid)
    tasks, extractions = map(int, re.findall(r"(\d+) tasks, (\d+) of extraction", plan)[0])
    assert extractions == 2 * 3
    whole = Benchmark(load(BenchmarkConfig, file, grid), Path("cluster"))
    for name, sweep in whole.sweeps.items():
        assert load(SweepConfig, Path("cluster") / name / "sweep.yaml", []) == sweep.config
    for number in range(extractions):
        run(file, "cluster", "--extract", str(number), *grid)
    run(file, "cluster", "--extract", "-1", *grid)
    computed = [run(file, "cluster", "--task", str(number), *grid) for number in range(tasks)]
    assert sum(int(re.findall(r"(\d+) units", output)[0]) for output in computed) == 2 * 3
    assert run(file, "cluster", "--status", *grid).count("3 of 3 units done") == 2
    run(file, "cluster", "--collect", *grid)
    assert pq.read_table("cluster/results.parquet").num_rows == 3 + 3 * 2
    with pytest.raises(FmctError, match=rf"no task {tasks}: the datasets have {tasks} in total"):
        whole.run_task(tasks)


def test_invalid_benchmarks_are_refused(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    for wrong, message in (
        ("datasets=[]", "datasets"),
        ("datasets=[{name: a, data: data, labels: l}, {name: a, data: data, labels: l}]", "the same name"),
        ("datasets=[{name: ../a, data: data, labels: l}]", "name"),
        ("datasets=[{name: a, data: data, labels: l, folds: 2}]", "folds"),
        ("features=elsewhere", "features"),
    ):
        with pytest.raises(FmctError, match=message):
            load(BenchmarkConfig, file, [wrong])
    # Nothing is computed if one of the datasets is refused.
    refuses = load(BenchmarkConfig, file, ["allow_unknown_pretraining=false"])
    with pytest.raises(FmctError, match="pretraining data is not available"):
        Benchmark(refuses, tmp_path / "out").run()
    assert not list(tmp_path.rglob("*.parquet"))
    hashed = load(BenchmarkConfig, file, []).datasets[0]
    with pytest.raises(FmctError, match="encoder dinov2: only this package's own encoders can be exported"):
        fit(load(BenchmarkConfig, file, []).sweep(hashed, tmp_path), "dinov2", "logistic")
    with pytest.raises(FmctError, match=r"benchmark.json: missing"):
        write_page(tmp_path)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("benchmark-*.yaml")), ids=lambda path: path.stem)
def test_benchmark_recipes_are_valid(path: Path) -> None:
    config = load(BenchmarkConfig, path, [])
    for dataset in config.datasets:
        sweep = config.sweep(dataset, Path("out"))
        assert (sweep.data, sweep.features) == (dataset.data, Path("out/features"))
