"""The scheduler job that this process runs in: its number, its rank, its end time.

All scheduler variables are read here; `shards/slurm_job.py` has those of Slurm. A scheduler without a reader
sets FMCT_JOB_NUMBER, and FMCT_JOB_RESTARTS when it starts a job again, in the scripts of its jobs.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shards.errors import FmctError

PREFIX = "FMCT_JOB_"
"""Prefix of the variables of schedulers without a reader."""


@dataclass(frozen=True)
class JobEnd:
    """When the scheduler ends the job."""

    variable: str
    """The environment variable that gives the end time."""
    text: str
    """Its value; it may be damaged, or left in a shell by an earlier job."""

    @property
    def seconds(self) -> float:
        """Seconds on the clock of `time.time`; NaN if the text is not a number."""
        try:
            return float(self.text)
        except ValueError:
            return math.nan


@dataclass(frozen=True)
class RunningJob:
    """Facts about this process's job; a field is None (or its default) if the scheduler does not set it."""

    scheduler: str | None = None
    """Its name; `other` if it has no reader here."""
    number: str | None = None
    """Digits; for an array task, 12_3."""
    restarts: int = 0
    """How often the scheduler has restarted this job."""
    rank: int | None = None
    ranks: int | None = None
    """Number of ranks of the job."""
    local_rank: int | None = None
    """Rank within this node."""
    end: JobEnd | None = None
    cluster: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    nodes: str | None = None
    """In the scheduler's notation: n[1-4]."""

    @classmethod
    def current(cls) -> "RunningJob":
        """The job of this process, from its environment; all fields are unset outside a job.

        Raises FmctError if a numeric variable does not hold a number.
        """
        return next((job for _, read in _schedulers() if (job := read(os.environ))), cls())


def without_job(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment without the schedulers' variables, for a process that is not a task of the job."""
    prefixes = tuple(prefix for prefix, _ in _schedulers())
    return {name: value for name, value in variables.items() if not name.startswith(prefixes)}


def _schedulers() -> tuple[tuple[str, Callable[[Mapping[str, str]], RunningJob | None]], ...]:
    """Of each scheduler: the prefix of its variables, and a function that reads them or returns None."""
    from shards import slurm_job  # imports this module

    return ((slurm_job.PREFIX, slurm_job.read), (PREFIX, _read))


def _read(variables: Mapping[str, str]) -> RunningJob | None:
    """The job of a scheduler without a reader, of one rank unless torchrun's variables say otherwise."""
    number, restarts = variables.get(f"{PREFIX}NUMBER"), variables.get(f"{PREFIX}RESTARTS", "0")
    if number and not restarts.isdecimal():
        raise FmctError(f"{PREFIX}RESTARTS={restarts!r}: expected a whole number")
    return RunningJob("other", number, int(restarts), rank=0, ranks=1, local_rank=0) if number else None
