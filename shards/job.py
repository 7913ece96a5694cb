"""The job of a scheduler that this process runs in: its number, its place among the ranks, its end.

Everything that a task reads of its scheduler is read here; `shards/slurm_job.py` has Slurm's variables.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class JobEnd:
    """When the scheduler ends the job."""

    variable: str
    """The environment variable that says so."""
    text: str
    """Its value, which may be damaged, or of an earlier job whose variables a shell has kept."""

    @property
    def seconds(self) -> float:
        """In seconds of `time.time`; NaN if the text is no number."""
        try:
            return float(self.text)
        except ValueError:
            return math.nan


@dataclass(frozen=True)
class RunningJob:
    """What a process knows of its job; each field is None (or its default) if no scheduler gives it."""

    scheduler: str | None = None
    number: str | None = None
    """Digits; of an array's task 12_3."""
    restarts: int = 0
    """How often the scheduler has started this job again."""
    rank: int | None = None
    ranks: int | None = None
    """Number of ranks of the job."""
    local_rank: int | None = None
    """Rank among those of this node."""
    end: JobEnd | None = None
    cluster: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    nodes: str | None = None
    """As the scheduler writes it: n[1-4]."""

    @classmethod
    def current(cls) -> "RunningJob":
        """That of this process, by its environment; without any field outside a job.

        Raises FmctError if a variable that holds a number holds something else.
        """
        return next((job for _, read in _schedulers() if (job := read(os.environ))), cls())


def without_job(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment without the schedulers' variables, for a process that is no task of the job."""
    prefixes = tuple(prefix for prefix, _ in _schedulers())
    return {name: value for name, value in variables.items() if not name.startswith(prefixes)}


def _schedulers() -> tuple[tuple[str, Callable[[Mapping[str, str]], RunningJob | None]], ...]:
    """Of each scheduler: how its variables' names begin, and a function that reads them, or gives None."""
    from shards import slurm_job  # imports this module

    return ((slurm_job.PREFIX, slurm_job.read),)
