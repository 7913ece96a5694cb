"""`fmct train --run RUN` without a recipe uses the recorded configuration."""

from pathlib import Path

import pytest
from small_training import small_config, write_dataset
from typer.testing import CliRunner

from launch.cli import app
from launch.commands.arguments import recorded_configuration
from shards.atomic import write_text
from shards.errors import FmctError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder as a run of 77 steps creates it."""
    config = small_config(write_dataset(tmp_path / "data"), run={"steps": 77, "batch": 4})
    folder = tmp_path / "run"
    folder.mkdir()
    write_text(folder / "config.json", config.with_absolute_paths().model_dump_json(indent=1))
    return folder


def dry_run(run: Path, *arguments: str) -> str:
    result = CliRunner().invoke(
        app, ["train", "--run", str(run), "--dry-run", *arguments], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.output


def test_a_run_resumes_from_its_recorded_configuration(run: Path) -> None:
    assert "77 steps are" in dry_run(run)
    assert "77 steps are" in dry_run(run, "run.log_every=5")
    with pytest.raises(FmctError, match=r"run\.steps=77, not 78"):
        dry_run(run, "run.steps=78")


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FmctError, match=r"no-run.*--config"):
        dry_run(tmp_path / "no-run")
    assert not (tmp_path / "no-run").exists()


def test_a_record_that_others_can_write_is_refused(run: Path, tmp_path: Path) -> None:
    assert recorded_configuration(tmp_path / "no-run") is None
    assert recorded_configuration(run) == run / "config.json"
    (run / "config.json").chmod(0o666)
    with pytest.raises(FmctError):
        recorded_configuration(run)
