"""Modules in the working folder with names of ours or of libraries are never imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_training import small_config, write_dataset, write_recipe

from fmct_hpc.train.attempts import attempts
from launch.jobs.requeue import read
from launch.pipeline.stages import fmct
from launch.scheduler import Job
from launch.slurm.scheduler import Slurm
from launch.slurm.site import Site
from shards.errors import FmctError

REPOSITORY = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("fmct")
HOSTILE = (
    *("preprocess", "shards", "launch", "fmct_hpc", "submitit", "torch", "deepspeed", "numpy", "yaml"),
    *("pickle", "random", "socket", "queue", "sitecustomize"),
)
STAND_INS = {
    "sbatch": "echo Submitted batch job 12",
    "scontrol": 'case $* in *"show node"*) echo "A=1 NodeAddr=127.0.0.1 B=2" ;; *hostnames*) echo n ;; esac',
    # What srun does for one task on this node; its own options precede the interpreter.
    "srun": f'while [ "$1" != {sys.executable} ]; do shift; done; exec "$@"',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder whose modules create a file when imported."""
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    for name in HOSTILE:
        line = f"open({str(tmp_path / 'imported')!r}, 'a').write('{name} ')\nraise SystemExit(99)\n"
        (hostile / f"{name}.py").write_text(line)
    return hostile


def run(folder: Path, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it there, without changes of the environment by an earlier test's `main`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **variables}
    environment.pop("PYTHONSAFEPATH", None)
    result = subprocess.run(
        [*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    imported = folder.parent / "imported"
    assert not imported.exists(), f"{imported.read_text()}was imported: {result.stderr}"
    return result


def test_ranks_and_readers_ignore_the_working_folder(folder: Path, tmp_path: Path) -> None:
    config = small_config(write_dataset(tmp_path / "data"), data={"workers": 1}, run={"steps": 2})
    recipe = write_recipe(config, tmp_path / "recipe.yaml")
    result = run(folder, PROGRAM, "train", "--config", recipe, "--run", tmp_path / "run", "--ranks", "2")
    assert result.returncode == 0, result.stderr
    [attempt] = attempts(tmp_path / "run")
    assert attempt.cause == "done"


def test_python_without_docstrings_is_refused_in_a_line(tmp_path: Path) -> None:
    result = run(tmp_path, PROGRAM, "doctor", PYTHONOPTIMIZE="2")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "PYTHONOPTIMIZE" in result.stderr


def test_worker_processes_ignore_the_working_folder(folder: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    assert run(folder, PROGRAM, "shards", "verify", data, "--workers", "2").returncode == 0


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the PATH with fakes of Slurm's commands."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, line in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{line}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return programs


def test_a_slurm_job_and_its_hooks_ignore_the_working_folder(
    folder: Path, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = tmp_path / "slurm"
    monkeypatch.chdir(folder)
    site = Site(setup=("export PYTHONPATH=$PYTHONPATH:",))  # with an empty entry, as profiles leave it
    job = Job("fmct-preprocess", (fmct(site, "preprocess", "none", "--out", "none"),), site.light)
    assert Slurm(site).submit([job], slurm) == ["12"]
    here = {
        **{"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "n", "SLURM_RESTART_COUNT": "1"},
        **{"SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        **{"SLURM_NODEID": "0"},
    }
    result = run(folder, "bash", slurm / "12_submission.sh", **here)
    assert result.returncode == 2, (
        result.stdout + result.stderr
    )  # the command's exit code: the catalog is missing
    endings = read(slurm, "12")  # written by the hooks, before and after it
    assert [(ending.start, ending.code) for ending in endings] == [(0, None), (1, 2)]


def test_a_job_runs_from_no_folder_that_others_can_write_to(programs: Path, tmp_path: Path) -> None:
    site = Site()
    job = Job("fmct-preprocess", (fmct(site, "preprocess"),), site.light)
    ours, linked = tmp_path / "ours", tmp_path / "linked"
    ours.mkdir()
    ours.chmod(0o777)
    Slurm(site).submit([job], ours)
    assert ours.stat().st_mode & 0o777 == 0o755
    linked.symlink_to(ours)
    with pytest.raises(FmctError, match=r"linked: is a link"):
        Slurm(site).submit([job], linked)
    if os.getuid() == 0:
        os.chown(ours, 65534, -1)
        with pytest.raises(FmctError, match=r"ours: belongs to another user"):
            Slurm(site).submit([job], ours)
