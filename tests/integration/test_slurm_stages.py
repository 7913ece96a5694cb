"""The stages on a real Slurm: through `fmct launch` and through the sbatch files, with equal outcome."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from launch.site import Resources, Site
from launch.slurm import Job, submit

pytestmark = pytest.mark.slurm

REPOSITORY = Path(__file__).parents[2]
SITE = REPOSITORY / "launch/recipes/site-test.yaml"
SBATCH = REPOSITORY / "launch/sbatch"
SMALL_MODEL = ["run.steps=40", "run.checkpoint_every=10", "run.batch=4", "model.depth=2", "model.width=96"]


def run(*command: str | Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def launched(*arguments: str | Path) -> list[str]:
    """Job numbers of what `fmct launch` submitted."""
    lines = run("fmct", "launch", *arguments, "--site", SITE).splitlines()
    return [line.split("job ")[1].split(",")[0] for line in lines]


def logs(folder: Path) -> str:
    return "\n".join(f"{path}\n{path.read_text()}" for path in sorted(folder.glob("**/*.out")))


@dataclass
class Export:
    catalog: Path
    arguments: list[str]
    """Overrides that every preprocessing of it takes: several small shards."""
    data: Path
    """Preprocessed here, without Slurm."""
    labels: Path


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Export:
    folder = tmp_path_factory.mktemp("export")
    catalog, key, labels = folder / "catalog.parquet", folder / "hmac.key", folder / "labels.parquet"
    arguments = [f"key_file={key}", "output.shard_mib=4"]
    run("fmct", "demo", "export", folder / "export", "--studies", "20", "--matrix", "64")
    run("fmct", "scan", folder / "export/dicom", "--catalog", catalog)
    run("fmct", "keygen", key)
    run("fmct", "labels", folder / "export/labels.csv", "--key-file", key, "--out", labels)
    run("fmct", "preprocess", catalog, "--out", folder / "data", *arguments)
    return Export(catalog, arguments, folder / "data", labels)


def digests(data: Path) -> list[str]:
    return [
        json.loads((data / form / "dataset.json").read_text())["digest"] for form in ("zarr", "webdataset")
    ]


def test_launched_preprocessing_gives_the_same_bytes_as_here(cluster, export, tmp_path):
    numbers = launched("preprocess", export.catalog, "--out", tmp_path, *export.arguments)
    assert [cluster.wait(number) for number in numbers] == ["COMPLETED"] * 2, logs(tmp_path)
    assert len(cluster.states(numbers[0])) > 1, "expected an array of several tasks"
    assert digests(tmp_path) == digests(export.data)


def test_preprocessing_by_sbatch_gives_the_same_bytes_as_here(cluster, export, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [export.catalog, "--out", tmp_path / "data", *export.arguments]
    run("fmct", "preprocess", *arguments, "--plan")
    array = run("sbatch", "--parsable", "--array=0-1", SBATCH / "preprocess.sbatch", *arguments).strip()
    collect = ("--parsable", f"--dependency=afterany:{array}", SBATCH / "collect.sbatch")
    after = run("sbatch", *collect, *arguments).strip()
    assert cluster.wait(after) == "COMPLETED", logs(tmp_path)
    assert digests(tmp_path / "data") == digests(export.data)


@pytest.fixture(scope="module")
def trained(export, tmp_path_factory) -> tuple[Path, Path]:
    """Where the two training tests put their runs, for the probes to find."""
    folder = tmp_path_factory.mktemp("runs")
    return folder / "preempted", folder / "unbroken"


def test_a_preempted_training_goes_on_with_the_same_losses(cluster, export, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preempted, unbroken = trained
    recipe = ["--config", REPOSITORY / "launch/recipes/quickstart-train.yaml"]
    recipe += [f"data.path={export.data / 'zarr'}", *SMALL_MODEL]

    (number,) = launched("train", "--run", preempted, "--nodes", "2", *recipe)
    cluster.until((preempted / "checkpoints/step-00000010").is_dir, 120, "first checkpoint")
    urgent = Job("urgent", ((sys.executable, "-c", "pass"),), Resources(partition="high", cpus_per_task=4), 4)
    (other,) = submit([urgent], tmp_path / "urgent", Site(account="test"))
    assert cluster.wait(other) == "COMPLETED", logs(tmp_path)
    assert cluster.wait(number, 200) == "COMPLETED", logs(preempted)
    assert cluster.restarts(number) == 1

    job = run(
        "sbatch", "--parsable", "--nodes=2", SBATCH / "train.sbatch", "--run", unbroken, *recipe
    ).strip()
    assert cluster.wait(job, 200) == "COMPLETED", logs(tmp_path)
    assert cluster.restarts(job) == 0
    assert "40 steps in both runs" in run("fmct", "compare", preempted, unbroken)


def test_probes_of_several_runs_are_one_array(cluster, export, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [f"data={export.data / 'zarr'}", f"labels={export.labels}", "folds=2", "bootstrap=100"]
    (number,) = launched("probe", *trained, "--out", tmp_path / "launched", *overrides)
    monkeypatch.setenv("RUNS", " ".join(map(str, trained)))
    monkeypatch.setenv("OUT", str(tmp_path / "sbatch"))
    array = run("sbatch", "--parsable", "--array=0-1", SBATCH / "probe.sbatch", *overrides).strip()
    assert cluster.wait(number, 200) == "COMPLETED", logs(tmp_path)
    assert cluster.wait(array, 200) == "COMPLETED", logs(tmp_path)
    for name in ("preempted", "unbroken"):
        results = [(tmp_path / way / name / "results.json").read_text() for way in ("launched", "sbatch")]
        assert results[0] == results[1]
