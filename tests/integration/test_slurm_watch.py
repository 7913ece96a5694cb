"""`fmct launch status|logs|cancel` on a real Slurm, with small scripts instead of the stages."""

import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import Cluster

from launch.config import load
from launch.scheduler import Job
from launch.slurm.scheduler import Slurm
from launch.slurm.site import Site

pytestmark = pytest.mark.slurm

SITE = load(Site, Path(__file__).parents[2] / "launch/recipes/site-test.yaml", [])
FAILS_FIRST = """
import os, pathlib, sys, time
number, folder = sys.argv[1:]
print("task", number, "speaks", flush=True)
if number == "0":
    sys.exit(3)
pathlib.Path(folder, number).touch()
time.sleep(500)
"""


def fmct(*arguments: str | Path) -> str:
    command = (sys.executable, "-m", "launch.cli", "launch", *map(str, arguments))
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_an_arrays_tasks_are_signalled_shown_and_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    """Task 0 fails twice, the others run."""
    site = SITE.model_copy(update={"width": 3})
    commands = tuple(
        (sys.executable, "-c", f"exec({FAILS_FIRST!r})", str(number), str(tmp_path)) for number in range(3)
    )
    (number,) = Slurm(site).submit([Job("sleepers", commands, SITE.preprocess)], tmp_path / "slurm")
    cluster.until(lambda: len(list(tmp_path.glob("[12]"))) == 2, 90, "two tasks that run")
    cluster.until(
        lambda: f"job {number}_0 does not run again" in fmct("status", tmp_path), 60, "end of task 0"
    )
    output = fmct("status", tmp_path)
    assert (
        f"{tmp_path}: job {number}_0 does not run again: crash: rank 0 on n1: Exited with exit code 3"
        in output
    )
    for task in (1, 2):
        assert f"job {number}_{task}, name sleepers, state RUNNING, restarts 0" in output
    assert f"job {number}_0, start 1, cause crash" in output

    shown = fmct("logs", tmp_path)
    assert shown.count("task 0 speaks") == 2, "the failed task's log"
    assert "task 1 speaks" not in shown

    output = fmct("cancel", tmp_path)
    assert output.count("cancelled") == 2
    assert cluster.wait(number) != "COMPLETED"
    assert sorted(state.split()[0] for state in cluster.states(number)) == ["CANCELLED"] * 2 + ["FAILED"]
    assert fmct("cancel", tmp_path) == f"{tmp_path}: no pending or running jobs\n"


def test_a_job_waiting_for_its_restart_can_be_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    site = SITE.model_copy(update={"backoff_seconds": 300})
    job = Job("fails", ((sys.executable, "-c", "import sys; sys.exit(3)"),), SITE.preprocess)
    (number,) = Slurm(site).submit([job], tmp_path / "slurm")
    cluster.until(lambda: "reason BeginTime" in fmct("status", tmp_path), 60, "that it waits")
    assert "restarts 1" in fmct("status", tmp_path)
    assert fmct("cancel", tmp_path) == f"job {number} (fails, pending): cancelled\n"
    assert cluster.wait(number).startswith("CANCELLED")
    assert cluster.restarts(number) == 1
