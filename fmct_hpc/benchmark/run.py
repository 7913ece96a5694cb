"""A benchmark: one sweep for each dataset, in folders of their own, and the tables of all together."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from fmct_hpc.benchmark.config import BenchmarkConfig
from fmct_hpc.benchmark.tables import BenchmarkSummary, write_tables
from fmct_hpc.probe.sweep.ledger import read_plan
from fmct_hpc.probe.sweep.run import Progress, Sweep
from shards.atomic import write_text
from shards.errors import FmctError
from shards.places import require_file, require_folder

SWEEP = "sweep.yaml"
"""Of a dataset's sweep; JSON, which is YAML too."""


def _silent(done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's configuration, and where its results go: a sweep's output folder for each dataset."""

    config: BenchmarkConfig
    out: Path

    @cached_property
    def sweeps(self) -> dict[str, Sweep]:
        """By the datasets' names, in their order."""
        return {
            dataset.name: Sweep(self.config.sweep(dataset, self.out / dataset.name), self.out / dataset.name)
            for dataset in self.config.datasets
        }

    @property
    def extractions(self) -> int:
        """Tasks of `extract`, of all datasets together."""
        return sum(sweep.extractions for sweep in self.sweeps.values())

    def plan(self) -> int:
        """Plan all sweeps, so that what one of them refuses is told before any work; returns their tasks.

        Writes each one's configuration beside its plan, for `fmct launch sweep`. Raises FmctError as
        `Sweep.plan` does.
        """
        require_folder(self.out)
        inputs = [path for d in self.config.datasets for path in (d.labels, d.parts)]
        for table in ("results.parquet", "comparisons.parquet"):
            require_file(self.out / table, *inputs)
        tasks = sum(len(sweep.plan().tasks) for sweep in self.sweeps.values())
        for sweep in self.sweeps.values():
            said = sweep.config.model_dump(mode="json", exclude_defaults=True)
            write_text(sweep.out / SWEEP, json.dumps(said, indent=1) + "\n")
        return tasks

    def extract(self, task: int | None = None, progress: Progress = _silent) -> None:
        """Extract what features are missing: of one task of all datasets' together, or of all."""
        if task is None:
            for sweep in self.sweeps.values():
                sweep.extract(progress=progress)
            return
        sweep, number = self._nth(task, lambda sweep: sweep.extractions, "extraction task")
        sweep.extract(number, progress)

    def run_task(self, task: int, progress: Progress = _silent) -> int:
        """Compute what is missing of one task of all datasets' together; returns how many units."""
        sweep, number = self._nth(task, lambda sweep: len(read_plan(sweep.out).tasks), "task")
        return sweep.run_task(number, progress)

    def run_share(self, share: int, shares: int) -> int:
        """Do that share of each dataset's tasks; returns how many units were computed."""
        return sum(sweep.run_share(share, shares) for sweep in self.sweeps.values())

    def collect(self) -> BenchmarkSummary:
        """Join what is done so far, of each dataset and of all."""
        summaries = {name: sweep.collect() for name, sweep in self.sweeps.items()}
        return write_tables(self.out, self.config, summaries)

    def status(self) -> str:
        """How far each dataset is, a line each."""
        return "\n".join(f"{name}: {sweep.status()}" for name, sweep in self.sweeps.items())

    def run(self, progress: Progress = _silent) -> BenchmarkSummary:
        """All of it here; what is done is kept."""
        self.plan()
        for sweep in self.sweeps.values():
            sweep.run(progress)
        return self.collect()

    def _nth(self, task: int, count: Callable[[Sweep], int], what: str) -> tuple[Sweep, int]:
        """The sweep that a task of all together is of, and its number there."""
        sweeps = list(self.sweeps.values())
        ends = list(accumulate(count(sweep) for sweep in sweeps))
        for sweep, end, before in zip(sweeps, ends, [0, *ends], strict=False):
            if before <= task < end:
                return sweep, task - before
        raise FmctError(f"no {what} {task}: the datasets have {ends[-1]} together, from 0")
