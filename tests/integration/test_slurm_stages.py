"""The stages on a real Slurm, by `fmct launch` and by the sbatch files, with equal results."""

import hashlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from slurm_cluster import Cluster
from slurm_commands import REPOSITORY, SBATCH, SITE, launched, logs, run
from small_training import small_config

from fmct_hpc.train.export import EncoderInfo, write_encoder
from fmct_hpc.train.start import untrained_encoder
from launch.jobs.progress import progress_of_job
from launch.scheduler import Job
from launch.slurm.scheduler import Slurm
from launch.slurm.site import Resources, Site
from shards.progress import Progress

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

SMALL_MODEL = ["run.steps=40", "run.checkpoint_every=10", "run.batch=4", "model.depth=2", "model.width=96"]
SMALL_MODEL += [
    "data.view_size=48",
    "model.patch_size=12",
    "data.local_views=2",
]  # slow enough to be preempted
HOLDOUT = {"validation": 0.25, "test": 0.25, "seed": 5}
"""With the key of `export`: 4 and 6 of 17 patients; each part has 2 volumes or more of both classes."""
SWEEP_STAGES = {"sweep-plan", "features", "features-joined", "sweep", "swept"}


@dataclass
class Export:
    folder: Path
    """Contains export/dicom, export/labels.csv and hmac.key."""
    catalog: Path
    arguments: list[str]
    """Overrides of every preprocessing of it: several small shards."""
    data: Path
    """Preprocessed here, without Slurm."""
    labels: Path


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    folder = tmp_path_factory.mktemp("export")
    catalog, key, labels = folder / "catalog.parquet", folder / "hmac.key", folder / "labels.parquet"
    arguments = [f"key_file={key}", "output.shard_mib=4"]
    run("fmct", "demo", "export", folder / "export", "--studies", "20", "--matrix", "64")
    run("fmct", "scan", folder / "export/dicom", "--catalog", catalog)
    key.write_text(hashlib.sha256(b"test_slurm_stages").hexdigest() + "\n")  # fixed, for HOLDOUT
    key.chmod(0o600)
    run("fmct", "labels", folder / "export/labels.csv", "--key-file", key, "--out", labels)
    run("fmct", "preprocess", catalog, "--out", folder / "data", *arguments)
    return Export(folder, catalog, arguments, folder / "data", labels)


def digests(data: Path) -> list[str]:
    return [
        json.loads((data / form / "dataset.json").read_text())["digest"] for form in ("zarr", "webdataset")
    ]


def test_launched_preprocessing_gives_the_same_bytes_as_without_slurm(
    cluster: Cluster, export: Export, tmp_path: Path
) -> None:
    numbers = launched("preprocess", export.catalog, "--out", tmp_path, *export.arguments)
    assert [cluster.wait(number) for number in numbers] == ["COMPLETED"] * 2, logs(tmp_path)
    assert len(cluster.states(numbers[0])) > 1, "expected an array of several tasks"
    assert digests(tmp_path) == digests(export.data)


def test_scan_and_preprocessing_by_sbatch_give_the_same_bytes_as_without_slurm(
    cluster: Cluster, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    catalog = tmp_path / "catalog.parquet"
    arguments: list[str | Path] = [catalog, "--out", tmp_path / "data", *export.arguments]

    def batch(stage: str, *arguments: str | Path, **options: str) -> str:
        given = [f"--{name}={value}" for name, value in options.items()]
        return run("sbatch", "--parsable", *given, SBATCH / f"{stage}.sbatch", *arguments).strip()

    scan = batch("scan", export.folder / "export/dicom", "--catalog", catalog)
    plan = batch("plan", *arguments, dependency=f"afterok:{scan}")
    array = batch("preprocess", *arguments, array="0-1", dependency=f"afterok:{plan}")
    collect = batch("collect", *arguments, dependency=f"afterok:{plan},afterany:{array}")
    assert cluster.wait(collect) == "COMPLETED", logs(tmp_path)
    assert catalog.read_bytes() == export.catalog.read_bytes()
    assert digests(tmp_path / "data") == digests(export.data)


@pytest.fixture(scope="module")
def trained(export: Export, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Run folders of the two training tests, used by the probes."""
    folder = tmp_path_factory.mktemp("runs")
    return folder / "preempted", folder / "unbroken"


def test_a_preempted_training_resumes_with_the_same_losses(
    cluster: Cluster,
    export: Export,
    trained: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    preempted, unbroken = trained
    recipe: list[str | Path] = ["--config", REPOSITORY / "launch/recipes/quickstart-train.yaml"]
    recipe += [f"data.path={export.data / 'zarr'}", *SMALL_MODEL]

    (number,) = launched("train", "--run", preempted, "--nodes", "2", *recipe)
    cluster.until((preempted / "checkpoints/step-00000010").is_dir, 120, "first checkpoint")
    urgent = Job("urgent", ((sys.executable, "-c", "pass"),), Resources(partition="high", cpus_per_task=4), 4)
    (other,) = Slurm(Site(account="test")).submit([urgent], tmp_path / "urgent")
    assert cluster.wait(other) == "COMPLETED", logs(tmp_path)
    job = run(
        "sbatch", "--parsable", "--nodes=2", SBATCH / "train.sbatch", "--run", unbroken, *recipe
    ).strip()
    assert cluster.wait(number, 200) == "COMPLETED", logs(preempted)
    assert cluster.restarts(number) == 1
    assert cluster.wait(job, 200) == "COMPLETED", logs(tmp_path)
    assert cluster.restarts(job) == 0
    assert "40 steps in both runs" in run("fmct", "compare", preempted, unbroken)


def test_probes_of_several_runs_are_one_array(
    cluster: Cluster,
    export: Export,
    trained: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
    arguments: list[str | Path] = [
        "--data",
        export.data,
        "--run",
        trained[1],
        "--probe",
        tmp_path / "sbatch" / "unbroken",
    ]
    job = run("sbatch", "--parsable", SBATCH / "report.sbatch", page, *arguments).strip()
    assert cluster.wait(job) == "COMPLETED", logs(tmp_path)
    assert "any_bleed" in page.read_text()


def test_a_pipeline_stops_at_a_failed_stage_resumes_and_runs_each_stage_once(
    cluster: Cluster, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    labels, out = tmp_path / "labels.csv", tmp_path / "out"
    labels.write_text("study_instance_uid,any_bleed\n1.2.3,1\n")  # of another archive: the probe refuses them
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
                "holdout": HOLDOUT,
                "probe": {"set": ["bootstrap=100"]},
                "sweep": {"set": ["methods=[logistic]", "seeds=[0]", "bootstrap=100"], "tasks": 1},
            }
        )
    )

    def launch(*arguments: str) -> dict[str, str]:
        lines = run("fmct", "launch", "pipeline", recipe, "--site", SITE, *arguments).splitlines()
        return dict(line.split(": ", 1) for line in lines if not line.startswith("###") and ": " in line)

    def numbers(outcomes: dict[str, str]) -> dict[str, str]:
        return {
            stage: text.split()[1].strip(",") for stage, text in outcomes.items() if text.startswith("job")
        }

    printed = run("fmct", "launch", "pipeline", recipe, "--site", SITE, "--dry-run")
    assert not out.exists()
    first = numbers(launch())
    assert len(first) == 14
    record = json.loads((out / "pipeline.json").read_text())["stages"]
    for job in record.values():
        shown = (
            printed.split(f"### {job['name']}, ", 1)[1].split("batch script\n", 1)[1].split("\n### ", 1)[0]
        )
        for other in record.values():  # printed by name, submitted by number
            shown = re.sub(
                rf"(?m)^(#SBATCH --dependency=.*){other['name']}", rf"\g<1>{other['number']}", shown
            )
        assert Path(job["folder"], f"{job['number']}_submission.sh").read_text() == shown
    again = launch()
    assert numbers(again).items() <= first.items(), "nothing is submitted while it is queued or running"
    for last in ("report", "features-joined", "swept"):  # a stage that runs would not be submitted again
        assert cluster.wait(first[last], 200) == "CANCELLED", logs(out)
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
    assert new == {"labels", "probe", "report", *SWEEP_STAGES}
    for last in ("report", "swept"):
        assert cluster.wait(second[last]["number"], 150) == "COMPLETED", logs(out)
    assert (out / "catalog.parquet").stat().st_mtime_ns == before
    require_held_out(out)
    assert set(launch().values()) == {"done"}
    assert json.loads((out / "pipeline.json").read_text())["stages"] == second


def require_held_out(out: Path) -> None:
    """No test patient was in the pretraining; probe, sweep and report are of exactly these patients."""
    rows = pq.read_table(out / "parts/parts.parquet").to_pylist()
    names = ("train", "validation", "test")
    patients = {name: {row["patient_key"] for row in rows if row["split"] == name} for name in names}
    assert all(patients.values())
    volumes = {name: pq.read_table(out / "parts" / name / "index.parquet").to_pylist() for name in names}
    pretrained = {row["patient_key"] for row in volumes["train"]}
    assert pretrained == patients["train"]
    assert not pretrained & (patients["validation"] | patients["test"])
    for folder in (out / "probe", out / "sweep"):
        scored = set(pq.read_table(folder / "predictions.parquet")["key"].to_pylist())
        assert scored == {row["key"] for row in volumes["test"]}
    result = json.loads((out / "probe/results.json").read_text())
    assert (result["patients"], result["pretrained_patients"]) == (len(patients["test"]), 0)
    page = (out / "report.html").read_text()
    assert f"Encoder trained: 0 of {len(patients['test'])} tested patients" in page
    figures = [row["auc"] for row in result["rows"] if row["task"] == "any_bleed"]
    assert len(figures) == 4, "logistic and neighbours, trained and untrained"
    assert all("{:.3f} [{:.3f}, {:.3f}]".format(*figure) in page for figure in figures)


@pytest.fixture(scope="module")
def grid(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a small sweep; its features are stored next to it, for all tests."""
    folder = tmp_path_factory.mktemp("grid")
    training = small_config(export.data / "zarr")
    info = EncoderInfo(
        step=7, model=training.model, data=training.data, spacing_mm=(1.0, 1.0, 1.0), code_version="test"
    )
    weights, ours = untrained_encoder(info, seed=1).state_dict(), folder / "ours"
    write_encoder(ours, {f"encoder.{name}": tensor for name, tensor in weights.items()}, info)
    file = folder / "sweep.yaml"
    file.write_text(
        f"""
        {{data: {export.data / "zarr"}, labels: {export.labels}, features: {folder / "features"}, folds: 3,
        encoders: [{{name: ours, weights: {ours}}}, {{name: other, weights: {ours}, untrained: 0}}],
        fractions: [0.5, 1.0], seeds: [0, 1], feature_tasks: 2, task_minutes: 0.08, bootstrap: 50,
        allow_unknown_pretraining: true}}
        """
    )
    return file


def test_a_sweep_of_two_arrays_gives_equal_tables_by_launch_and_by_sbatch(
    cluster: Cluster, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    launched_jobs = launched("sweep", grid, "--out", "launched")
    tasks = int(run("fmct", "sweep", grid, "--out", "sbatch", "--plan").split()[-2])
    script = (SBATCH / "sweep.sbatch", grid, "--out", "sbatch")
    features = f"--dependency=afterok:{launched_jobs[1]}"
    array = run("sbatch", "--parsable", features, f"--array=0-{tasks - 1}", *script).strip()
    last = run("sbatch", "--parsable", f"--dependency=afterany:{array}", *script, "--collect").strip()
    assert [cluster.wait(number, 200) for number in launched_jobs] == ["COMPLETED"] * 4, logs(tmp_path)
    assert len(cluster.states(launched_jobs[0])) > 2, "expected an array for features"
    assert len(cluster.states(launched_jobs[2])) > 2, "expected an array for the grid"
    assert cluster.wait(last, 200) == "COMPLETED", logs(tmp_path)
    for name in ("results", "predictions", "comparisons"):
        tables = [pq.read_table(tmp_path / way / f"{name}.parquet") for way in ("launched", "sbatch")]
        assert tables[0].num_rows > 0
        assert tables[0].equals(tables[1])


def test_array_tasks_register_the_patients_they_score_and_the_last_job_joins_them(
    cluster: Cluster, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words: list[str | Path] = ["robustness", grid, "--out", "followed"]
    words += ["methods=[logistic]", "changes={thicker: [5.0], blur: [], sharpen: [], noise: []}"]
    lines = run("fmct", "launch", "array", "--site", SITE, "--tasks", "2", "--", *words).splitlines()
    features, array, joined = (line.split("job ")[1].split(",")[0] for line in lines)
    assert cluster.wait(joined, 200) == "COMPLETED", logs(tmp_path)
    assert cluster.states(features) == ["COMPLETED"]
    assert cluster.states(array) == ["COMPLETED"] * 2
    records = tmp_path / "followed/slurm"
    [units, *others] = [progress_of_job(records, f"{array}_{task}") for task in range(2)]
    assert (units, others) == (Progress(2, 2), [Progress(2, 2)]), "two encoders, each unchanged and thicker"
    rows = pq.read_table(tmp_path / "followed/robustness.parquet").to_pylist()
    followed = [row for row in rows if row["task"] == "any_bleed"]
    assert {(row["encoder"], row["severity"]) for row in followed} == {
        (encoder, severity) for encoder in ("ours", "other") for severity in (0.0, 5.0)
    }
    assert all(row["value"] is not None for row in followed)
