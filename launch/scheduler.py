"""The interface for submitting, watching, cancelling and requeueing jobs.

`launch/slurm/scheduler.py` implements it, and `launch/schedulers.py` selects it. A running task reads the
properties of its job from `shards.job.RunningJob`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from shards.private import own_folder

if TYPE_CHECKING:
    from fmct_hpc.train.attempts import Cause

BACKOFF_SECONDS = 60.0
"""Delay before the restart of a job after its first failure; doubled with each consecutive failure."""

ALIVE = (
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "SUSPENDED",
    "COMPLETING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "STOPPED",
)
"""States of a job that is not over. All states are in the words of squeue(1), JOB STATE CODES."""

ENDED: "dict[str, Cause]" = {
    "PREEMPTED": "preempted",
    "NODE_FAIL": "node failure",
    "BOOT_FAIL": "node failure",
    "REQUEUED": "requeued",
    "CANCELLED": "cancelled",
    "TIMEOUT": "time limit",
    "OUT_OF_MEMORY": "crash",
    "COMPLETED": "done",
    "FAILED": "crash",
}
"""States of a job, or of one start of it, that is over, and why it ended."""


class Requested(Protocol):
    """The resources of a job that every scheduler knows; those of a site file have further keys."""

    @property
    def time_minutes(self) -> int:
        """Time limit."""

    @property
    def cpus_per_task(self) -> int:
        """Cores per task."""

    @property
    def gpus_per_node(self) -> int:
        """GPUs per node."""

    @property
    def mem_gb(self) -> float | None:
        """Memory of each node, in GiB."""


@dataclass(frozen=True)
class Job:
    """A job to submit: one command, or an array with one command per task."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    resources: Requested
    nodes: int = 1
    tasks_per_node: int = 1
    kept: tuple[str, ...] = ()
    """Arguments of `fmct launch after` that name the run folder of a training."""
    after_success: tuple[str, ...] = ()
    """Names of jobs that must have succeeded; if one failed, this job is cancelled."""
    after_end: tuple[str, ...] = ()
    """Names of jobs that must have ended, successfully or not."""
    done: Path | None = None
    """A file to touch on success; of an array, one per task with the task number after a dot."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the jobs that it starts after."""
        return (*self.after_success, *self.after_end)

    @property
    def size(self) -> str:
        """The size of the job as text."""
        if self.nodes * self.tasks_per_node > 1:
            return f"{self.nodes} nodes of {self.tasks_per_node} ranks"
        return f"an array of {len(self.commands)} tasks" if len(self.commands) > 1 else "one task"


@dataclass(frozen=True)
class JobFacts:
    """One job, or several pending tasks of an array that are reported in one record."""

    job: str
    """The job's number: 12; of an array task 12_3, of pending ones 12_[4-9]."""
    name: str
    state: str
    reason: str = ""
    """Why it is pending; empty if it is not."""
    nodes: str = ""
    restarts: int = 0
    start: datetime | None = None
    """When it started, or is expected to start."""
    preempted: bool = False
    waits: tuple[str, ...] = ()
    """Numbers of the jobs that it depends on and that are not over."""
    command: str = ""
    folder: str = ""
    log: str | None = None

    @property
    def array(self) -> str:
        """The job's number without the array's task."""
        return self.job.split("_")[0]


@dataclass(frozen=True)
class Queued:
    """A pending or running job of this user; an array counts as one."""

    number: str
    name: str
    state: str
    """RUNNING if any task is running."""
    reason: str
    """Why it is pending."""
    folder: str
    command: str


@dataclass(frozen=True)
class JobStart:
    """One start of a job, as accounting has it."""

    job: str
    state: str
    exit_code: str
    """code:signal"""
    start: datetime | None
    end: datetime | None
    nodes: str


class Explained(NamedTuple):
    """Why a start of a job ended."""

    cause: "Cause"
    detail: str = ""
    rank: int | None = None
    code: int | None = None


class Scheduler(ABC):
    """Runs jobs. Only `submit` raises (FmctError); the others return None, or a message, on failure.

    A subclass has `submit_one`, `script`, `jobs_known`, `cancel` and `requeue`; the other methods have
    defaults for a scheduler that does not know more.

    A job's tasks get the signals of fmct_hpc/train/signals.py before its time limit and on preemption. Its
    script does what launch/job.sh does for Slurm's: it writes `fmct: job 12, start 0, on n1` to the log,
    sets FMCT_LOG and FMCT_LEDGERS (shards/progress.py), and calls `fmct launch before` when it is started
    again and `fmct launch after --code CODE` when its command has failed (launch/jobs/requeue.py). If the
    scheduler sets no variables of its own that shards/job.py reads, the script sets FMCT_JOB_NUMBER and
    FMCT_JOB_RESTARTS.
    """

    title: ClassVar[str] = "the scheduler"
    """Its name in messages."""
    more_time: ClassVar[str] = "time_minutes of the site file"
    """Where the time limit of a job is set."""

    def submit(self, jobs: list[Job], folder: Path, numbers: Mapping[str, str] | None = None) -> list[str]:
        """Submit jobs, each after those that it depends on; logs go to `folder`. Returns their numbers.

        numbers: by name, those of jobs that are not in `jobs` but that some depend on.
        Raises FmctError with the scheduler's message if it rejects a job.
        """
        own_folder(folder)  # jobs read from there what they run
        known = dict(numbers or {})
        for job in jobs:
            known[job.name] = self.submit_one(job, folder, known)
        return [known[job.name] for job in jobs]

    def describe(self, job: Job, folder: Path, numbers: Mapping[str, str] | None = None) -> str:
        """The script that `submit` would submit, and the command of each task."""
        names = {name: name for name in (job.name, *job.needs)}
        return self.script(job, folder, {**names, **(numbers or {})})

    @abstractmethod
    def submit_one(self, job: Job, folder: Path, numbers: dict[str, str]) -> str:
        """Submit one job; returns its number. numbers: by name, those of the jobs that it depends on."""

    @abstractmethod
    def script(self, job: Job, folder: Path, numbers: dict[str, str]) -> str:
        """What is submitted, as text. numbers: by name, of the job and of those that it depends on."""

    @abstractmethod
    def jobs_known(self, number: str | None = None) -> list[JobFacts] | None:
        """Records of job `number`, or of all jobs; empty for a job that is no longer known."""

    @abstractmethod
    def cancel(self, number: str) -> str | None:
        """Cancel a job, pending or running; returns an error message, None or empty on success."""

    @abstractmethod
    def requeue(self, number: str) -> str | None:
        """Queue a job again, which ends it if it is running; returns an error message as `cancel`."""

    def delay(self, number: str, seconds: float) -> str | None:
        """Start a pending job no earlier than in `seconds`; returns an error message as `cancel`."""
        return f"{self.title} starts jobs as soon as it can"

    def queued(self) -> list[Queued] | None:
        """This user's pending and running jobs."""
        known = self.jobs_known()
        if known is None:
            return None
        jobs: dict[str, Queued] = {}
        for job in known:
            if job.state in ALIVE and (job.array not in jobs or job.state != "PENDING"):
                facts = (job.array, job.name, job.state, job.reason, job.folder, job.command)
                jobs[job.array] = Queued(*facts)
        return list(jobs.values())

    def job_starts(self, numbers: list[str]) -> list[JobStart] | None:
        """Every start of these jobs, oldest first; None if there is no accounting."""
        return None if numbers else []

    def nodes_down(self, names: list[str]) -> list[str] | None:
        """Those of the nodes that are down or not responding."""
        return None

    def hostnames(self, nodes: str) -> list[str]:
        """The nodes of a job (`RunningJob.nodes`), one by one."""
        return [nodes]

    def ended_by(self, log: str) -> Explained | None:
        """Why the scheduler ended a start, by what it wrote to the start's log."""
        return None

    def failure(self, log: str, code: int) -> Explained | None:
        """Which rank or node failed, by what was written to the log of a command that ended with `code`."""
        return None

    def on_node(self, command: str, gpus: int = 0) -> str:
        """The shell line that runs `command` on a compute node."""
        return command
