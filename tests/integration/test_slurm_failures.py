"""Failures on a real Slurm with a real training: it continues, or stops with one clear reason.

By default the most important ones; `FMCT_FAILURES=all` runs all, and with -s prints the table of
docs/operations.md.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import paced_training
import pytest
from fault_table import Table
from fault_table import table as table
from slurm_cluster import Cluster
from slurm_faults import Lose, daemon, preempt, processes, program, restart, wait_for_job_to_leave
from slurm_faults import node_to_lose as node_to_lose
from slurm_training import HIT, REPOSITORY, SAVE_EVERY, SITE, Training, rare

from fmct_hpc.train.attempts import attempts
from launch.jobs.watch import overview_of
from launch.ranks import run_ranks
from launch.slurm.scheduler import Slurm

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

PAUSE = "0.2"


@pytest.fixture
def training(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Training]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("FMCT_TEST_PAUSE", PAUSE)
    training = Training(tmp_path, cluster)
    yield training
    subprocess.run(["scancel", training.job], check=False)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the uninterrupted run, at the same number of ranks."""
    training = Training(tmp_path_factory.mktemp("unbroken"), None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("FMCT_TEST_PAUSE", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        assert run_ranks(list(training.command), 2).code == 0
    return training.digests()


@pytest.mark.parametrize("which", [0, pytest.param(1, marks=rare)])
def test_a_node_goes_down(
    training: Training,
    unbroken: dict[str, str],
    table: Table,
    node_to_lose: Lose,
    which: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first is the batch script's, which thus cannot write. At the second, accounting is missing."""
    with monkeypatch.context() as jobs:
        if which == 1:
            program(training.folder / "bin/sacct", "exit 1", jobs)
        training.submit()
    training.at_step()
    nodes = training.cluster.run("squeue", "-hj", training.job, "-o", "%N")
    name = training.cluster.run("scontrol", "show", "hostnames", nodes.strip()).split()[which]
    node_to_lose(name, training.job)
    starts = training.done()
    assert [start.cause for start in starts] == ["node failure", "done"]
    assert starts[0].lost_steps in range(SAVE_EVERY + 1)
    assert starts[1].first_step == SAVE_EVERY + 1
    assert training.digests() == unbroken
    which_node = "the first, which has the batch script" if which == 0 else "another; no accounting"
    table(f"a node goes down ({which_node})", starts)


@rare
def test_a_rank_is_killed(training: Training, unbroken: dict[str, str], table: Table) -> None:
    training.submit(SITE).at_step()
    (victim,) = processes(training.job, "paced_training", SLURM_PROCID="1")
    os.kill(victim, signal.SIGKILL)
    starts = training.done()
    assert [(start.cause, start.failed_rank) for start in starts] == [("crash", 1), ("done", None)], (
        training.log()
    )
    assert starts[0].exit_code == 137
    assert starts[0].lost_steps in range(SAVE_EVERY + 1)
    assert training.digests() == unbroken
    assert training.log().count("queued again") == 1
    table("a rank is killed", starts)


@pytest.fixture
def small_disk(training: Training) -> Iterator[Path]:
    """The run folder on a separate file system of 16 MiB."""
    training.run.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", training.run], check=True)
    yield training.run
    subprocess.run(["scancel", training.job], check=False)
    wait_for_job_to_leave(training.cluster, training.job)
    subprocess.run(["umount", "--lazy", training.run], check=True)


def test_the_file_system_is_full_at_a_checkpoint(
    training: Training, unbroken: dict[str, str], table: Table, small_disk: Path
) -> None:
    training.submit().at_step()
    filler = small_disk / "filler"
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(bytes(free - 200_000))  # space for a line in a log, not for a checkpoint
    wait_for_job_to_leave(training.cluster, training.job)
    filler.unlink()
    starts = training.done()
    assert [start.cause for start in starts] == ["no room", "done"], training.log()
    assert "No space left on device" in starts[0].detail
    assert starts[0].saved_step == SAVE_EVERY
    assert starts[0].lost_steps == SAVE_EVERY, "no training beyond what it could save"
    assert training.digests() == unbroken
    assert training.log().count("fmct: ") - training.log().count("fmct: job") <= 1, "one reason, logged once"
    reason = starts[0].detail.partition("can't be written")
    what = f"no room: CHECKPOINT {''.join(reason[1:])}; done"
    table("the file system is full at a checkpoint, and has room later", starts, what)


@rare
def test_preemption(training: Training, unbroken: dict[str, str], table: Table) -> None:
    training.submit().at_step()
    preempt(training.cluster, training.folder / "urgent")
    starts = training.done()
    assert [start.cause for start in starts] == ["preempted", "done"]
    assert starts[0].lost_steps == 0
    assert training.digests() == unbroken
    table("preempted by a higher partition", starts)


@rare
def test_the_time_limit(
    training: Training, unbroken: dict[str, str], table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMCT_TEST_PAUSE", "3")  # of 30 steps: the warning comes after 90 s at the latest
    site = SITE.model_copy(update={"warn_seconds": 30})  # Slurm may warn up to a minute earlier
    training.submit(site, SITE.train.model_copy(update={"time_minutes": 2}))
    starts = training.done(500)
    assert len(starts) > 1
    assert {start.cause for start in starts[:-1]} == {"time limit"}
    assert [start.lost_steps for start in starts] == [0] * len(starts)
    assert training.digests() == unbroken
    table("the time limit, several times", starts, "time limit: SIGUSR2")


@rare
def test_scontrol_requeue(training: Training, unbroken: dict[str, str], table: Table) -> None:
    training.submit().at_step()
    subprocess.run(["scontrol", "requeue", training.job], check=True)
    starts = training.done()
    assert [start.cause for start in starts] == ["requeued", "done"]
    assert starts[0].lost_steps == 0
    assert training.digests() == unbroken
    table("`scontrol requeue`", starts)


@rare
def test_scancel(training: Training, unbroken: dict[str, str], table: Table) -> None:
    training.submit().at_step()
    command = [sys.executable, "-m", "launch.cli", "launch", "cancel", str(training.run)]
    subprocess.run(command, check=True, timeout=60)
    assert training.cluster.wait(training.job).startswith("CANCELLED")
    (start,) = overview_of(training.run, Slurm()).attempts
    assert (start.cause, start.lost_steps) == ("cancelled", 0)
    assert training.cluster.restarts(training.job) == 0
    assert len(training.submit().done()) == 2
    assert training.digests() == unbroken
    table("`scancel` (`fmct launch cancel`), then submitted again", attempts(training.run))


@rare
def test_slurmctld_is_restarted(training: Training, unbroken: dict[str, str], table: Table) -> None:
    training.submit().at_step()
    os.kill(daemon("slurmctld"), signal.SIGTERM)
    training.at_step(HIT + 6)
    restart("slurmctld")
    starts = training.done()
    assert [start.cause for start in starts] == ["done"]
    assert training.digests() == unbroken
    table("slurmctld is down for some steps", starts)


@rare
def test_a_training_that_always_crashes_at_the_same_step(
    training: Training, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMCT_TEST_CRASH_AT", str(HIT))
    training.submit()
    assert training.cluster.wait(training.job) == "FAILED"
    starts = attempts(training.run)
    assert [(start.cause, start.saved_step, start.failed_rank) for start in starts] == [
        ("crash", SAVE_EVERY, 0)
    ] * 2
    assert training.log().count("not queued again") == 1
    table("a rank crashes each time at one step", starts)


@rare
def test_a_rank_is_killed_under_the_sbatch_file(
    training: Training, unbroken: dict[str, str], table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f'exec {sys.executable} {paced_training.__file__} "$@"'
    program(training.folder / "bin/fmct", command, monkeypatch)
    monkeypatch.setenv("FMCT_BACKOFF_SECONDS", "2")
    monkeypatch.chdir(training.folder)
    script = REPOSITORY / "launch/sbatch/train.sbatch"
    arguments = ["--run", str(training.run), "--config", str(training.recipe)]
    given = ["sbatch", "--parsable", "--nodes=2", "--cpus-per-task=1", str(script), *arguments]
    training.job = subprocess.run(given, capture_output=True, text=True, check=True).stdout.strip()
    training.at_step()
    (victim,) = processes(training.job, "paced_training", SLURM_PROCID="1")
    os.kill(victim, signal.SIGKILL)
    starts = training.done()
    assert [(start.cause, start.failed_rank) for start in starts] == [("crash", 1), ("done", None)]
    assert training.digests() == unbroken
    table("a rank is killed, `train.sbatch`", starts)
