"""Files of earlier versions: this version opens each, or reports clearly that it cannot.

tests/make_artefacts.sh created them with the code of the version in their name.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from small_training import run_training
from typer.testing import CliRunner

import fmct_hpc
from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.probe.encoders import OurEncoder
from fmct_hpc.probe.labels import LabelTable
from fmct_hpc.probe.leakage import pretraining_patients
from fmct_hpc.probe.store import FeatureStore
from fmct_hpc.probe.sweep.run import Sweep
from fmct_hpc.train.attempts import attempts
from fmct_hpc.train.checkpoint import newest
from fmct_hpc.train.export import export_checkpoint, load_encoder
from launch.cli import app
from launch.config import load
from launch.report.data import Data
from launch.report.probe import Probes
from launch.report.training import Training
from preprocess import run
from preprocess.config import PreprocessConfig
from preprocess.dicom.catalog import read_catalog
from preprocess.privacy.deidentify import Pseudonymizer
from shards import Dataset
from shards.errors import FmctError
from shards.verification import verify

DATA = Path(__file__).parents[1] / "data" / "artefacts"
VERSIONS = sorted(path.stem for path in DATA.glob("*.zip"))
VOLUMES = 8
MARKED = ["check.max_noise_hu=5", "privacy.date_shift_days=30", "output.formats=[zarr]"]
"""Overrides of preprocess.yaml in the dataset `marked`."""


@pytest.fixture(scope="module", params=VERSIONS)
def unpacked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artefacts")
    with zipfile.ZipFile(DATA / f"{request.param}.zip") as archive:
        archive.extractall(folder)
    (folder / "hmac.key").chmod(0o600)
    return folder


@pytest.fixture
def artefacts(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all artefacts, the commands' working folder: the artefacts' paths are relative to it."""
    copy = tmp_path / "artefacts"
    shutil.copytree(unpacked, copy)
    monkeypatch.chdir(copy)
    return copy


def recipe(*overrides: str) -> PreprocessConfig:
    return load(PreprocessConfig, Path("preprocess.yaml"), list(overrides))


def written(*folders: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time and bytes of every file."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files if path.name != ".lock"}


PLAN = "tasks/plan.json"


def contents(*folders: Path) -> dict[str, bytes]:
    return {name: data for name, (_, data) in written(*folders).items()}


def times(out: Path) -> dict[str, int]:
    """Joining the tasks' outputs again writes the datasets' files with the same bytes."""
    made = {name: time for name, (time, _) in written(out).items() if "tasks/" in name or "shard-" in name}
    del made[str(out / PLAN)]  # its key's fingerprint is added once
    return made


def test_datasets_of_both_formats_are_read_and_verify(artefacts: Path) -> None:
    zarr, tar = Dataset.open(Path("data/zarr")), Dataset.open(Path("data/webdataset"))
    latest = newest(Path("zero1"))
    assert latest
    assert len(zarr) == len(tar) == VOLUMES
    assert zarr.content_digest() == tar.content_digest() == latest[1].data.content_digest
    assert [zarr.record(i) for i in range(VOLUMES)] == [tar.record(i) for i in range(VOLUMES)]
    assert all(np.array_equal(zarr.read(i), tar.read(i)) for i in range(VOLUMES))
    for path in ("data/zarr", "data/webdataset", "marked/zarr"):
        assert verify(Path(path)) == []
    assert zarr.info.config_digest == recipe().digest()


@pytest.fixture
def same_processing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The PROCESSING_VERSION of the artefacts: another one has every volume made again, as it is meant to."""
    monkeypatch.setattr("preprocess.tasks.plan.PROCESSING_VERSION", 7)


@pytest.mark.parametrize(
    ("catalog", "out", "overrides"), [("catalog", "data", []), ("small", "marked", MARKED)]
)
def test_preprocessed_volumes_are_not_made_again(
    artefacts: Path, same_processing: None, catalog: str, out: str, overrides: list[str]
) -> None:
    config, folder = recipe(*overrides), Path(out)
    before, made = contents(folder), times(folder)
    assert (run.status(folder).missing, run.status(folder).stale) == (0, 0)
    del before[f"{out}/summary.json"]  # it is rewritten with the pages, which are not among the artefacts
    plan = json.loads(before.pop(f"{out}/{PLAN}"))
    run.preprocess(Path(f"{catalog}.parquet"), folder, config)
    assert times(folder) == made
    assert before.items() <= contents(folder).items()
    assert plan.items() <= json.loads((folder / PLAN).read_bytes()).items()
    after = written(folder)
    run.preprocess(Path(f"{catalog}.parquet"), folder, config)
    assert written(folder) == after


def test_a_changed_limit_that_only_flags_rebuilds_no_volume(artefacts: Path, same_processing: None) -> None:
    out = Path("data")
    made, datasets = times(out), contents(out / "zarr", out / "webdataset")
    assert run.preprocess(Path("catalog.parquet"), Path("data"), recipe()).flagged_volumes == 0
    strict = run.preprocess(Path("catalog.parquet"), Path("data"), recipe("check.max_noise_hu=5"))
    rows = pq.read_table("data/manifest.parquet").to_pylist()
    noisy = ["noisy" in row["flags"] for row in rows]
    assert noisy == [row["noise_hu"] > 5 for row in rows]
    assert strict.flagged_by_reason == {"noisy": sum(noisy)} != {"noisy": 0}
    assert (times(out), contents(out / "zarr", out / "webdataset")) == (made, datasets)


@pytest.mark.parametrize(("run_folder", "stage", "ranks"), [("zero1", 1, 1), ("zero3", 3, 2)])
def test_training_resumes_from_a_checkpoint(artefacts: Path, run_folder: str, stage: int, ranks: int) -> None:
    folder = Path(run_folder)
    further = json.loads((folder / "further.jsonl").read_text())
    arguments = (f"engine.zero_stage={stage}", "--until", str(further["step"]))
    ended = run_training(Path("train.yaml"), folder, ranks, *arguments)
    assert ended.returncode == 0, ended.stdout
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    for name in ("step", "loss", "dino", "ibot", "mae", "gradient_norm", "lr"):
        assert last[name] == pytest.approx(further[name], rel=1e-3)
    assert [attempt.number for attempt in attempts(folder)] == [1, 2]


def test_an_encoder_and_its_checkpoint_give_the_same_features_as_before(artefacts: Path) -> None:
    exported = Path("exported")
    export_checkpoint(Path("zero1/checkpoints/step-00000002"), exported)
    for weights in (Path("zero1/encoder.safetensors"), exported / "encoder.safetensors"):
        scans = list(fmct_hpc.features(Path("data/zarr"), load_encoder(weights)))
        assert len(scans) == VOLUMES
        for scan in scans:
            kept = load_file(Path("scans") / f"{scan.key}.safetensors")
            for name in ("cls", "patches", "centres_mm"):
                assert getattr(scan, name) == pytest.approx(kept[name], abs=1e-5)
    index = Dataset.open(Path("data/zarr")).index
    patients = {*index["patient_key"].to_pylist(), *index["source_digest"].to_pylist()}
    assert pretraining_patients(Path("zero1")) == frozenset(patients)


def test_an_encoder_accepts_volumes_of_other_flag_or_selection_settings(
    artefacts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`marked` has the digest that 0.1.0 gave to another limit and a shifted date."""
    encoder = load_encoder(Path("zero1/encoder.safetensors"))
    assert Dataset.open(Path("marked/zarr")).info.config_digest != encoder[1].preprocess_digest
    assert len(list(fmct_hpc.features(Path("marked/zarr"), encoder))) == 2
    assert "selected or checked differently" in caplog.text
    other = encoder[1].model_copy(update={"preprocessing": {**(encoder[1].preprocessing or {}), "grid": {}}})
    with pytest.raises(FmctError, match="another configuration"):
        list(fmct_hpc.features(Path("marked/zarr"), (encoder[0], other)))


def test_extracted_features_are_reused(artefacts: Path) -> None:
    store = FeatureStore.open(Path("stores/ours"))
    store.verify()
    assert store.info.encoder_digest == OurEncoder(*load_encoder(Path("zero1/encoder.safetensors"))).digest
    for key, mean in zip(store.keys.tolist(), store.vectors(pool="mean"), strict=True):
        kept = load_file(Path("scans") / f"{key}.safetensors")["patches"].mean(axis=0)
        assert mean == pytest.approx(kept, abs=1e-5)


def test_a_finished_sweep_recomputes_nothing(artefacts: Path) -> None:
    before = written(Path("stores"), Path("sweep/units"))
    figures = pq.read_table("sweep/results.parquet").select(["encoder", "auc"])
    sweep = Sweep(load(SweepConfig, Path("sweep.yaml"), []), Path("sweep"))
    assert sweep.status().startswith("2 of 2 units done")
    sweep.run()
    assert written(Path("stores"), Path("sweep/units")) == before
    assert pq.read_table("sweep/results.parquet").select(["encoder", "auc"]).equals(figures)
    assert Probes(Path("sweep")).results
    assert Probes(Path("probe")).encoder_digest


def test_labels_and_catalog_are_read(artefacts: Path) -> None:
    labels = LabelTable.read(Path("labels.parquet"))
    assert "any_bleed" in labels.tasks
    series = read_catalog(Path("catalog.parquet"))
    descriptions = {image.texts.series_description for one in series for image in one.instances}
    assert len(descriptions) > 1
    assert descriptions == {*pq.read_table("catalog.parquet")["series_description"].to_pylist()}
    studies = {Pseudonymizer(Path("hmac.key")).study(one.study_uid) for one in series}
    assert {*pq.read_table("labels.parquet")["study_key"].to_pylist()} == studies
    arguments = ["select", "catalog.parquet", "--config", "preprocess.yaml"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    assert f"{VOLUMES}" in result.output


def add_key(path: Path, *places: str) -> None:
    """Add a key that no version has to the object at `places` of a JSON file."""
    document = json.loads(path.read_bytes())
    place = document
    for name in places:
        place = place[name]
    place["from_the_future"] = 1
    path.write_text(json.dumps(document))


REFUSALS: dict[str, tuple[str, tuple[str, ...], Callable[[], object]]] = {
    "dataset": ("data/zarr/dataset.json", (), lambda: Dataset.open(Path("data/zarr"))),
    "plan": ("data/tasks/plan.json", (), lambda: run.status(Path("data"))),
    "marker": ("data/tasks/00000-*.json", (), lambda: run.status(Path("data"))),
    "a rerun over a newer plan": (
        "data/tasks/plan.json",
        (),
        lambda: run.preprocess(Path("catalog.parquet"), Path("data"), recipe()),
    ),
    "checkpoint": ("zero1/checkpoints/*/manifest.json", (), lambda: newest(Path("zero1"))),
    "encoder": ("zero1/encoder.json", (), lambda: load_encoder("zero1/encoder.safetensors")),
    "encoder's model": ("zero1/encoder.json", ("model",), lambda: load_encoder("zero1/encoder.safetensors")),
    "encoder's preprocessing": (
        "zero1/encoder.json",
        ("preprocessing", "grid"),
        lambda: list(fmct_hpc.features(Path("absent"), "zero1/encoder.safetensors")),
    ),
    "features": ("stores/ours/features.json", (), lambda: FeatureStore.open(Path("stores/ours"))),
    "sweep's plan": (
        "sweep/plan.json",
        (),
        lambda: Sweep(load(SweepConfig, Path("sweep.yaml"), []), Path("sweep")).status(),
    ),
    "probe's summary": ("probe/summary.json", (), lambda: Probes(Path("probe"))),
    "preprocessing's summary": ("data/summary.json", (), lambda: Data(Path("data"))),
    "a run's configuration": ("zero1/config.json", ("model",), lambda: Training(Path("zero1"))),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_outputs_of_a_newer_version_are_refused_and_unchanged(artefacts: Path, kind: str) -> None:
    pattern, places, read = REFUSALS[kind]
    (file,) = (path for path in artefacts.glob(pattern) if ".manifest" not in path.name)
    add_key(file, *places)
    before = written(artefacts)
    with pytest.raises(
        FmctError, match=r"from_the_future.*use the version that wrote it, or a newer"
    ) as error:
        read()
    assert "\n" not in str(error.value)
    assert written(artefacts) == before


def test_a_training_of_a_newer_configuration_is_refused(artefacts: Path) -> None:
    """The checkpoint is whole: its manifest holds the configuration as an object, whatever its keys."""
    checkpoint = Path("zero1/checkpoints/step-00000002")
    latest = newest(Path("zero1"))
    assert latest
    configuration = {**latest[1].configuration, "from_the_future": {"key": 1}}
    manifest = latest[1].model_copy(update={"configuration": configuration}).sealed()
    (checkpoint / "manifest.json").write_text(manifest.model_dump_json(indent=1))
    with pytest.raises(FmctError, match="from_the_future"):
        export_checkpoint(checkpoint, Path("exported"))
    arguments = ["train", "--run", "zero1", "--config", "train.yaml", "engine.zero_stage=1", "--dry-run"]
    result = CliRunner().invoke(app, arguments, env=dict(os.environ))
    assert isinstance(result.exception, FmctError), result.output
    assert "from_the_future" in str(result.exception)
