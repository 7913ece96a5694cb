"""Read permissions of outputs."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from forked_commands import forked_fmct
from pydantic import BaseModel
from shard_samples import make_key, noise, write_dataset

from fmct_hpc.config import TrainConfig
from fmct_hpc.probe.config import ProbeConfig, SweepConfig
from launch.slurm.site import Site
from launch.study.config import StudyConfig
from preprocess.config import PreprocessConfig
from shards.sharing_section import Sharing


def convert(folder: Path, umask: int, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command whose worker processes write shards, started with a umask."""
    write_dataset(
        folder / "data",
        "webdataset",
        {name: {make_key(n): noise((8, 8, 8), n)} for n, name in enumerate("ab")},
    )
    command = [*forked_fmct(), "shards", "convert", str(folder / "data")]
    command += ["--out", str(folder / "out"), "--to", "zarr", "--workers", "2"]
    clean = {name: value for name, value in os.environ.items() if name != "FMCT_SHARE"}
    return subprocess.run(command, umask=umask, env=clean | environment, capture_output=True, text=True)


def modes(folder: Path) -> set[tuple[str, int]]:
    files = [folder, *folder.rglob("*")]
    return {("folder" if path.is_dir() else "file", stat.S_IMODE(path.stat().st_mode)) for path in files}


@pytest.mark.parametrize(
    ("umask", "environment", "file", "folder"),
    [
        (0o022, {}, 0o640, 0o750),
        (0o000, {}, 0o640, 0o750),
        (0o077, {}, 0o600, 0o700),
        (0o022, {"FMCT_SHARE": "owner"}, 0o600, 0o700),
        (0o077, {"FMCT_SHARE": "group"}, 0o640, 0o750),
        (0o077, {"FMCT_SHARE": "all"}, 0o644, 0o755),
    ],
)
def test_outputs_have_the_configured_permissions(
    tmp_path: Path, umask: int, environment: dict[str, str], file: int, folder: int
) -> None:
    result = convert(tmp_path, umask, **environment)
    assert result.returncode == 0, result.stderr
    assert modes(tmp_path / "out") == {("file", file), ("folder", folder)}


@pytest.mark.parametrize(("given", "file"), [("owner", 0o600), ("group", 0o640), ("all", 0o644)])
def test_a_recipe_sets_permissions_for_its_command_and_child_processes(
    tmp_path: Path, given: str, file: int
) -> None:
    """Overrides the setting of a site file."""
    write_dataset(tmp_path / "data", "zarr", {"one": {make_key(1): noise((60, 60, 60), 1)}})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"{{data: {{path: {tmp_path}/data}}, privacy: {{share: {given}}}}}")
    command = [*forked_fmct(), "train", "--dry-run", "--run", str(tmp_path / "run")]
    result = subprocess.run(
        [*command, "--config", str(recipe)], umask=0o027, env=os.environ | {"FMCT_SHARE": "group"}
    )
    assert result.returncode == 0
    assert modes(tmp_path / "run") == {("file", file), ("folder", file | (file & 0o444) >> 2)}


def test_an_unknown_sharing_value_is_refused(tmp_path: Path) -> None:
    result = convert(tmp_path, 0o022, FMCT_SHARE="everybody")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "model", [PreprocessConfig, TrainConfig, ProbeConfig, SweepConfig, StudyConfig, Site]
)
def test_every_recipe_and_the_site_file_accept_sharing(model: type[BaseModel]) -> None:
    assert isinstance(model.model_fields["privacy"].get_default(call_default_factory=True), Sharing)
