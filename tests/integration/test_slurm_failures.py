"""Failures on a real Slurm with a real training: it continues, or stops with one clear reason.

By default the most important ones; `FMCT_FAILURES=all` runs all, and with -s prints the table of
docs/operations.md.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import paced_training
import pytest
from slurm_cluster import Cluster
from small_training import small_config, write_dataset, write_recipe

from fmct_hpc.train.attempts import Attempt, attempts, last_figures
from fmct_hpc.train.checkpoint import newest
from launch.config import load
from launch.jobs.watch import overview_of
from launch.pipeline.stages import preprocess_jobs
from launch.ranks import run_ranks
from launch.scheduler import Job
from launch.slurm.scheduler import Slurm
from launch.slurm.site import Resources, Site
from preprocess.tasks import ledger
from shards.errors import FmctError

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).parents[2]
SITE = load(Site, REPOSITORY / "launch/recipes/site-test.yaml", [])
STEPS, SAVE_EVERY, HIT = 30, 10, 14
"""Faults strike after step HIT, between the checkpoints of steps 10 and 20."""
PAUSE = "0.2"

rare = pytest.mark.skipif(os.environ.get("FMCT_FAILURES") != "all", reason="FMCT_FAILURES=all runs it")


class Training:
    """A training in a Slurm job of two ranks on two nodes, or here."""

    def __init__(self, folder: Path, cluster: Cluster | None) -> None:
        self.folder = folder
        self.run = folder / "run"
        self._cluster = cluster
        config = small_config(
            write_dataset(folder / "data"), run={"steps": STEPS, "checkpoint_every": SAVE_EVERY}
        )
        self.recipe = write_recipe(config, folder / "recipe.yaml")
        self.job = ""

    @property
    def cluster(self) -> Cluster:
        assert self._cluster is not None
        return self._cluster

    @property
    def command(self) -> tuple[str, ...]:
        arguments = ("train", "--run", str(self.run), "--config", str(self.recipe))
        return (sys.executable, paced_training.__file__, *arguments)

    def submit(self, site: Site = SITE, resources: Resources = SITE.train) -> "Training":
        job = Job("fmct-train", (self.command,), resources, nodes=2, kept=("--run", str(self.run)))
        (self.job,) = Slurm(site).submit([job], self.run / "slurm")
        return self

    def at_step(self, step: int = HIT) -> "Training":
        self.cluster.until(lambda: last_figures(self.run).get("step", 0) >= step, 200, f"step {step}")
        return self

    def log(self) -> str:
        return "\n".join(path.read_text() for path in sorted((self.run / "slurm").glob("*.out")))

    def done(self, seconds: float = 200) -> list[Attempt]:
        state = self.cluster.wait(self.job, seconds)
        assert state == "COMPLETED", self.log()
        return attempts(self.run)

    def digests(self) -> dict[str, str]:
        """SHA-256 of the last checkpoint's files."""
        latest = newest(self.run)
        assert latest is not None
        assert latest[1].step == STEPS
        return {name: facts.sha256 for name, facts in latest[1].files.items()}


def wait_for_job_to_leave(cluster: Cluster, job: str) -> None:
    cluster.until(lambda: "JobState=RUNNING" not in cluster.run("scontrol", "show", "job", job), 60, "end")


class Table(Protocol):
    """Adds a fault's row: its name, the attempts, further notes."""

    def __call__(self, fault: str, starts: list[Attempt], what: str = "") -> None: ...


Lose = Callable[[str, str], None]
"""Takes a node from a job."""


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


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    rows: list[str] = []

    def add(fault: str, starts: list[Attempt], what: str = "") -> None:
        if not starts:
            rows.append(f"| {fault} | {what} | | |")
            return
        lost = sum(start.lost_steps or 0 for start in starts)
        outcome = "; ".join(
            f"{start.cause}: {start.detail}" if start.detail else f"{start.cause}" for start in starts
        )
        rows.append(f"| {fault} | {what or outcome} | {len(starts)} | {lost} |")

    yield add
    print("\n| fault | what happened | starts | steps lost |\n|---|---|---|---|", *rows, sep="\n")


def processes(job: str, program: str = "", **variables: str) -> list[int]:
    """Processes of a job, by variables of their environment; all nodes are on this host."""
    wanted = {f"{name}={value}" for name, value in {"SLURM_JOB_ID": job, **variables}.items()}
    matching = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = set((process / "environ").read_text(errors="replace").split("\0"))
            named = (process / "cmdline").read_text(errors="replace")
        except OSError:
            continue
        if wanted <= environment and program in named:
            matching.append(int(process.name))
    return matching


def parent(process: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def is_slurmstepd(process: int) -> bool:
    """The process of slurmd for each step on each node, which reports the step's end to slurmctld."""
    with suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text().startswith("slurmstepd")
    return False


def program(path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a shell script first on the PATH, also of jobs."""
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


def daemon(name: str) -> int:
    return int((Path(os.environ["FMCT_CLUSTER_DIR"]) / "pid" / f"{name}.pid").read_text())


def restart(*command: str) -> None:
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(command, check=True, env=environment, timeout=60)


def preempt(cluster: Cluster, folder: Path) -> None:
    urgent = Job("urgent", ((sys.executable, "-c", "pass"),), Resources(partition="high", cpus_per_task=4), 4)
    (number,) = Slurm(SITE).submit([urgent], folder)
    assert cluster.wait(number) == "COMPLETED"


@pytest.fixture
def node_to_lose(cluster: Cluster) -> Iterator[Lose]:
    """Takes a node down, as a power cut does; restores it afterwards."""
    lost: list[str] = []

    def lose(node: str, job: str) -> None:
        lost.append(node)
        os.kill(daemon(f"slurmd-{node}"), signal.SIGKILL)
        running = processes(job, SLURMD_NODENAME=node)  # ranks, batch script, srun
        for process in [*filter(is_slurmstepd, map(parent, running)), *running]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        subprocess.run(["scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=power"], check=True)

    yield lose
    for node in lost:
        restart("slurmd", "-N", node)
        subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], check=False)
        idle = lambda node=node: "idle" in cluster.run("sinfo", "-hn", node, "-o", "%T", "-p", "low")  # noqa: E731
        cluster.until(idle, 150, f"node {node}")


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


@rare
def test_preprocessing_with_more_tasks_than_the_array_limit_and_one_that_always_crashes(
    cluster: Cluster, tmp_path: Path, table: Table
) -> None:
    def fmct(*arguments: str | Path) -> None:
        subprocess.run([sys.executable, "-m", "launch.cli", *map(str, arguments)], check=True, timeout=300)

    catalog, key, here, out = (tmp_path / name for name in ("catalog.parquet", "hmac.key", "here", "out"))
    overrides = [f"key_file={key}", "output.shard_mib=1"]
    fmct("demo", "export", tmp_path / "export", "--studies", "24", "--matrix", "64")
    fmct("scan", tmp_path / "export/dicom", "--catalog", catalog)
    fmct("keygen", key)
    fmct("preprocess", catalog, "--out", here, *overrides)
    tasks = ledger.status(here).done
    site = SITE.model_copy(update={"array_size": 3})
    assert tasks > site.array_size

    array, collect = preprocess_jobs(catalog, out, None, overrides, site)
    dies = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    numbers = Slurm(site).submit(
        [replace(array, commands=(*array.commands[:-1], dies)), collect], out / "slurm"
    )
    cluster.wait(numbers[1], 300)
    assert sorted(cluster.states(numbers[0])) == ["COMPLETED", "COMPLETED", "FAILED"]
    status = ledger.status(out)
    assert 0 < status.done < tasks
    endings = overview_of(out, Slurm()).given_up[f"{numbers[0]}_2"]
    assert [ending.cause for ending in endings] == ["crash", "crash"]
    done = f"tried twice, then given up, with its reason; {status.done} of {tasks} tasks done by the others"
    table("an array task dies each time", [], done)

    numbers = Slurm(site).submit(preprocess_jobs(catalog, out, None, overrides, site), out / "slurm")
    assert [cluster.wait(number, 300) for number in numbers] == ["COMPLETED", "COMPLETED"]
    for form in ("zarr/dataset.json", "webdataset/dataset.json"):
        assert (out / form).read_bytes() == (here / form).read_bytes()
    table(
        "submitted again, with more tasks than the array may have",
        [],
        "shared out; only the missing are done",
    )


@rare
def test_a_preprocessing_task_that_exceeds_its_time_limit(
    cluster: Cluster, tmp_path: Path, table: Table
) -> None:
    """The second array task marks task 1, then sleeps beyond its time limit."""
    out = tmp_path / "out"
    script = (
        "import pathlib, sys, time; path = pathlib.Path(sys.argv[1]); "
        "path.parent.mkdir(parents=True, exist_ok=True); path.touch(); "
        "from shards.progress import register; from shards.share import Share; "
        "register('preprocess', path.parents[1], Share(1, 2)); time.sleep(600)"
    )
    never = (sys.executable, "-c", script, str(out / "tasks/00001-0123abcd.json"))
    array = Job(
        "fmct-preprocess",
        ((sys.executable, "-c", "pass"), never),
        SITE.preprocess.model_copy(update={"time_minutes": 1}),
    )
    site = SITE.model_copy(update={"warn_seconds": 20})
    (number,) = Slurm(site).submit([array], out / "slurm")
    cluster.wait(number, 500)
    assert [ending.cause for ending in overview_of(out, Slurm()).given_up[f"{number}_1"]] == [
        "time limit"
    ] * 3
    log = (out / "slurm" / f"{number}_1_0_log.out").read_text()
    assert "3 time limits with 1 tasks done" in log
    assert "so not queued again: give it more time" in log
    table("a task of preprocessing takes longer than its time limit", [], "tried three times, then one line")


@rare
def test_an_array_rejected_by_slurm_is_reported_in_one_line(
    cluster: Cluster, tmp_path: Path, table: Table
) -> None:
    job = Job("many", ((sys.executable, "-c", "pass"),) * 1100, SITE.preprocess)
    with pytest.raises(FmctError, match=r"Slurm rejected many .*nvalid job array") as refused:
        Slurm(SITE).submit([job], tmp_path)
    table("`array_size` above `MaxArraySize`", [], f"refused before anything runs: {refused.value}")
