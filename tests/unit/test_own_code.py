"""Code named by a sweep's file is run only if the file is the user's own, or if allowed."""

import json
import os
from pathlib import Path

import pytest
import yaml
from test_probe_answers import exit_code
from typer.testing import CliRunner

from launch.cli import app

RAN = "ran"


def sweep_file(folder: Path, name: str = "grid.yaml") -> Path:
    """A file whose function creates the folder `RAN` and returns no encoder."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder = {"name": "peer", "function": "os:mkdir", "arguments": {"path": RAN}}
    grid = {"data": "data", "labels": "labels.parquet", "features": "features", "encoders": [encoder]}
    path = folder / name
    path.write_text(yaml.safe_dump(grid))
    return path


def output(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return exit_code(result.exception) if result.exception else 0, f"{result.output}{result.exception}"


def is_refused(path: Path, *more: str) -> bool:
    code, words = output("sweep", path, "--out", "out", "--plan", *more)
    assert code == 2, "the dataset is missing too"
    assert ("names code to run (os:mkdir)" in words) == ("--allow-code" in words)
    assert not Path(RAN).exists()
    return "names code to run" in words


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own folder, which contains data and runs."""
    monkeypatch.chdir(tmp_path)
    for inside in ("data/dataset.json", "runs/first/encoder.safetensors"):
        (tmp_path / inside).parent.mkdir(parents=True)
        (tmp_path / inside).write_text("")
    return tmp_path


def test_a_file_of_the_user_is_accepted(project: Path) -> None:
    assert not is_refused(sweep_file(project))
    assert not is_refused(sweep_file(project / "sweeps/deep"))


@pytest.mark.parametrize(
    "mark",
    [
        "dataset.json",
        "encoder.json",
        "model.safetensors",
        "metrics.jsonl",
        "features.json",
        "attempts/0001.json",
        ".cache/huggingface/download/grid.yaml.metadata",
    ],
)
@pytest.mark.parametrize("below", ["", "configs/probes"])
def test_a_file_from_a_download_is_refused(project: Path, mark: str, below: str) -> None:
    path = sweep_file(project / "download" / below)
    (project / "download" / mark).parent.mkdir(parents=True, exist_ok=True)
    (project / "download" / mark).write_text("")
    assert is_refused(path)
    assert not is_refused(path, "--allow-code")
    own = json.dumps([{"name": "mine", "function": "os:mkdir", "arguments": {"path": RAN}}])
    assert not is_refused(path, f"encoders={own}")
    (project / "link.yaml").symlink_to(path)
    assert is_refused(project / "link.yaml")


def test_a_hub_snapshot_is_refused_by_link_and_by_file(project: Path) -> None:
    cache = project / "hub/models--peer--encoder"
    blob = sweep_file(cache / "blobs", "0f1e")
    link = cache / "snapshots/abc/grid.yaml"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    assert is_refused(link)
    assert is_refused(blob)


def test_a_file_that_others_can_write_is_refused(project: Path) -> None:
    path = sweep_file(project / "shared")
    for place, mode in ((path, 0o646), (path.parent, 0o777), (path.parent, 0o1777), (project, 0o777)):
        before = place.stat().st_mode
        place.chmod(mode)
        assert is_refused(path), (place, oct(mode))
        place.chmod(before)
    project.chmod(0o1777)
    assert not is_refused(path), "in a sticky folder nobody can replace another's folder"
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        assert is_refused(path)


def test_a_file_without_code_may_be_anywhere(project: Path) -> None:
    path = sweep_file(project / "download")
    (project / "download/dataset.json").write_text("")
    grid = yaml.safe_load(path.read_text())
    grid["encoders"] = [{"name": "first", "weights": "runs/first"}]
    path.write_text(yaml.safe_dump(grid))
    assert not is_refused(path)


def test_the_launchers_check_before_anything_is_submitted(project: Path) -> None:
    download = project / "download"
    path = sweep_file(download)
    (download / "dataset.json").write_text("")
    (project / "site.yaml").write_text("{}")
    launch = ("launch", "sweep", path, "--site", "site.yaml", "--out", "out", "--dry-run")
    assert "names code to run" in output(*launch)[1]
    assert "names code to run" not in output(*launch, "--allow-code")[1]
    encoders = yaml.safe_load(path.read_text())["encoders"]
    places = {"export": "export", "key_file": "hmac.key", "labels": "labels.csv", "out": "out"}
    (project / "export").mkdir()
    for name in ("hmac.key", "labels.csv"):
        (project / name).write_text("")
    whole = download / "pipeline.yaml"
    whole.write_text(yaml.safe_dump({**places, "sweep": {"encoders": encoders}}))
    pipeline = ("launch", "pipeline", whole, "--site", "site.yaml", "--dry-run")
    assert "names code to run" in output(*pipeline)[1]
    assert "names code to run" in output(*pipeline, "sweep.tasks=2")[1]
    allowed = output(*pipeline, "--allow-code")[1]
    assert "names code to run" not in allowed
    assert not Path(RAN).exists()
