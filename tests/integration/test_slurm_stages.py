"""The stages on a real Slurm: through `fmct launch` and through the sbatch files, with equal outcome."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from small_sweep import bright_sweep
from small_training import small_config

from fmct_hpc.classifier.fit import fit
from fmct_hpc.classifier.kept import write_classifier
from fmct_hpc.classifier.table import Predictions
from fmct_hpc.train.export import EncoderInfo, write_encoder
from fmct_hpc.train.start import untrained_encoder
from launch.slurm.site import Resources, Site
from launch.slurm.submit import Job, submit

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).parents[2]
SITE = REPOSITORY / "launch/recipes/site-test.yaml"
SBATCH = REPOSITORY / "launch/sbatch"
SMALL_MODEL = ["run.steps=40", "run.checkpoint_every=10", "run.batch=4", "model.depth=2", "model.width=96"]
SMALL_MODEL += [
    "data.view_size=48",
    "model.patch_size=12",
    "data.local_views=2",
]  # slow enough to be preempted


def run(*command: str | Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
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
    folder: Path
    """Has export/dicom, export/labels.csv and hmac.key."""
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
    return Export(folder, catalog, arguments, folder / "data", labels)


def digests(data: Path) -> list[str]:
    return [
        json.loads((data / form / "dataset.json").read_text())["digest"] for form in ("zarr", "webdataset")
    ]


def test_launched_preprocessing_gives_the_same_bytes_as_here(cluster, export, tmp_path):
    numbers = launched("preprocess", export.catalog, "--out", tmp_path, *export.arguments)
    assert [cluster.wait(number) for number in numbers] == ["COMPLETED"] * 2, logs(tmp_path)
    assert len(cluster.states(numbers[0])) > 1, "expected an array of several tasks"
    assert digests(tmp_path) == digests(export.data)


def test_scan_and_preprocessing_by_sbatch_give_the_same_bytes_as_here(cluster, export, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [tmp_path / "catalog.parquet", "--out", tmp_path / "data", *export.arguments]

    def batch(stage: str, *arguments: str | Path, **options: str) -> str:
        given = [f"--{name}={value}" for name, value in options.items()]
        return run("sbatch", "--parsable", *given, SBATCH / f"{stage}.sbatch", *arguments).strip()

    scan = batch("scan", export.folder / "export/dicom", "--catalog", arguments[0])
    plan = batch("plan", *arguments, dependency=f"afterok:{scan}")
    array = batch("preprocess", *arguments, array="0-1", dependency=f"afterok:{plan}")
    collect = batch("collect", *arguments, dependency=f"afterok:{plan},afterany:{array}")
    assert cluster.wait(collect) == "COMPLETED", logs(tmp_path)
    assert arguments[0].read_bytes() == export.catalog.read_bytes()
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
    overrides = [f"data={export.data / 'zarr'}", f"labels={export.labels}", "folds=3", "bootstrap=100"]
    (number,) = launched("probe", *trained, "--out", tmp_path / "launched", *overrides)
    monkeypatch.setenv("RUNS", " ".join(map(str, trained)))
    monkeypatch.setenv("OUT", str(tmp_path / "sbatch"))
    array = run("sbatch", "--parsable", "--array=0-1", SBATCH / "probe.sbatch", *overrides).strip()
    assert cluster.wait(number, 200) == "COMPLETED", logs(tmp_path)
    assert cluster.wait(array, 200) == "COMPLETED", logs(tmp_path)
    for name in ("preempted", "unbroken"):
        results = [(tmp_path / way / name / "results.json").read_text() for way in ("launched", "sbatch")]
        assert results[0] == results[1]
    page = tmp_path / "report.html"
    arguments = ["--data", export.data, "--run", trained[1], "--probe", tmp_path / "sbatch" / "unbroken"]
    job = run("sbatch", "--parsable", SBATCH / "report.sbatch", page, *arguments).strip()
    assert cluster.wait(job) == "COMPLETED", logs(tmp_path)
    assert "any_bleed" in page.read_text()


def test_a_pipeline_stops_where_a_stage_fails_goes_on_and_is_done_once(
    cluster, export, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    labels, out = tmp_path / "labels.csv", tmp_path / "out"
    labels.write_text("study_instance_uid,any_bleed\n1.2.3,1\n")  # of another archive: the probe will say so
    small = ["run.steps=4", "run.batch=4", "run.checkpoint_every=2", "model.depth=1", "model.width=48"]
    small += ["data.view_size=24", "data.local_views=1", "model.heads=2"]
    recipe = tmp_path / "pipeline.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "export": str(export.folder / "export/dicom"),
                "key_file": str(export.folder / "hmac.key"),
                "labels": "labels.csv",
                "out": "out",
                "preprocess": {"set": ["output.shard_mib=4", "grid.spacing_mm=[4, 4, 4]"]},
                "train": {"config": str(REPOSITORY / "launch/recipes/quickstart-train.yaml"), "set": small},
                "probe": {"set": ["folds=3", "bootstrap=100"]},
            }
        )
    )

    def launch(*arguments: str) -> dict[str, str]:
        lines = run("fmct", "launch", "pipeline", recipe, "--site", SITE, *arguments).splitlines()
        return dict(line.split(": ", 1) for line in lines if not line.startswith("###") and ": " in line)

    def numbers(said: dict[str, str]) -> dict[str, str]:
        return {stage: text.split()[1].strip(",") for stage, text in said.items() if text.startswith("job")}

    printed = run("fmct", "launch", "pipeline", recipe, "--site", SITE, "--dry-run")
    assert not out.exists()
    first = numbers(launch())
    assert len(first) == 8
    record = json.loads((out / "pipeline.json").read_text())["stages"]
    for job in record.values():
        shown = (
            printed.split(f"### {job['name']}, ", 1)[1].split("batch script\n", 1)[1].split("\n### ", 1)[0]
        )
        for other in record.values():  # of which a name stands for the number that Slurm is to give
            shown = re.sub(
                rf"(?m)^(#SBATCH --dependency=.*){other['name']}", rf"\g<1>{other['number']}", shown
            )
        assert Path(job["folder"], f"{job['number']}_submission.sh").read_text() == shown
    again = launch()
    assert numbers(again).items() <= first.items(), "nothing is submitted while it is queued or running"
    assert cluster.wait(first["report"], 200) == "CANCELLED", logs(out)
    assert cluster.wait(first["train"]) == "COMPLETED"
    assert cluster.wait(first["probe"]) == "FAILED"

    labels.write_bytes((export.folder / "export/labels.csv").read_bytes())
    before = (out / "catalog.parquet").stat().st_mtime_ns
    lines = run("fmct", "launch", "pipeline", recipe, "--site", SITE).splitlines()
    [why] = [line for line in lines if "ended" in line and line.startswith("probe")]
    assert f"job {first['probe']} ended (failed)" in why
    assert "none of its studies is in the dataset" in why
    second = json.loads((out / "pipeline.json").read_text())["stages"]
    new = {stage for stage, job in second.items() if job["number"] != first[stage]}
    assert new == {"labels", "probe", "report"}
    assert cluster.wait(second["report"]["number"], 150) == "COMPLETED", logs(out)
    assert (out / "catalog.parquet").stat().st_mtime_ns == before
    assert (out / "report.html").is_file()
    assert set(launch().values()) == {"done"}
    assert json.loads((out / "pipeline.json").read_text())["stages"] == second


def test_a_sweep_is_arrays_of_features_and_grid_with_equal_tables_by_both_ways(
    cluster, export, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    training = small_config(export.data / "zarr")
    info = EncoderInfo(
        step=7, model=training.model, data=training.data, spacing_mm=(1.0, 1.0, 1.0), code_version="test"
    )
    weights = untrained_encoder(info, seed=1).state_dict()
    write_encoder(tmp_path / "ours", {f"encoder.{name}": tensor for name, tensor in weights.items()}, info)
    grid = tmp_path / "sweep.yaml"
    grid.write_text(
        f"""
        {{data: {export.data / "zarr"}, labels: {export.labels}, features: features, folds: 3, bootstrap: 50,
        encoders: [{{name: ours, weights: ours}}, {{name: other, weights: ours, untrained: 0}}],
        fractions: [0.5, 1.0], seeds: [0, 1], feature_tasks: 2, task_minutes: 0.08,
        allow_unknown_pretraining: true}}
        """
    )
    launched_jobs = launched("sweep", grid, "--out", "launched")
    assert [cluster.wait(number, 200) for number in launched_jobs] == ["COMPLETED"] * 4, logs(tmp_path)
    assert len(cluster.states(launched_jobs[0])) > 2, "expected an array for features"
    assert len(cluster.states(launched_jobs[2])) > 2, "expected an array for the grid"

    tasks = int(run("fmct", "sweep", grid, "--out", "sbatch", "--plan").split()[-2])
    script = (SBATCH / "sweep.sbatch", grid, "--out", "sbatch")
    array = run("sbatch", "--parsable", f"--array=0-{tasks - 1}", *script).strip()
    last = run("sbatch", "--parsable", f"--dependency=afterany:{array}", *script, "--collect").strip()
    assert cluster.wait(last, 200) == "COMPLETED", logs(tmp_path)
    for name in ("results", "predictions", "comparisons"):
        tables = [pq.read_table(tmp_path / way / f"{name}.parquet") for way in ("launched", "sbatch")]
        assert tables[0].num_rows > 0
        assert tables[0].equals(tables[1])


def test_predictions_of_an_array_are_those_of_one_run(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = bright_sweep(tmp_path)
    write_classifier(fit(grid, method="logistic"), tmp_path / "kept")
    paths = ["data", "data", "nothing", "data"]
    jobs = launched("predict", *paths, "--classifier", "kept", "--out", "launched")
    assert [cluster.wait(number, 200) for number in jobs] == ["COMPLETED", "COMPLETED"], logs(tmp_path)
    assert len(cluster.states(jobs[0])) > 3, "expected an array"
    here = Predictions([Path(path) for path in paths], Path("kept"), Path("here"))
    here.run()
    assert [reason.partition(":")[0] for reason in here.collect().refused] == ["path 2"]
    script = (SBATCH / "predict.sbatch", *paths, "--classifier", "kept", "--out", "sbatch")
    array = run("sbatch", "--parsable", "--array=0-1", *script).strip()
    last = run("sbatch", "--parsable", f"--dependency=afterany:{array}", *script, "--collect").strip()
    assert cluster.wait(last, 200) == "COMPLETED", "a path was refused, which its row says"
    first, *others = (
        pq.read_table(tmp_path / way / "predictions.parquet") for way in ("here", "launched", "sbatch")
    )
    assert first.num_rows == 3 * 60 + 1
    assert all(first.equals(other) for other in others)
