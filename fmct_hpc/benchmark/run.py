"""A benchmark: one sweep per dataset, in separate folders, and common tables."""

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
from shards.output_paths import require_file, require_folder

SWEEP = "sweep.yaml"
"""Configuration of a dataset's sweep, as JSON, which is valid YAML."""


def _silent(done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's configuration and its output folder, with a sweep's folder per dataset."""

    config: BenchmarkConfig
    out: Path

    @cached_property
    def sweeps(self) -> dict[str, Sweep]:
        """Sweeps by dataset name, in the configuration's order."""
        return {
            dataset.name: Sweep(self.config.sweep(dataset, self.out / dataset.name), self.out / dataset.name)
            for dataset in self.config.datasets
        }

    @property
    def extractions(self) -> int:
        """Number of tasks of `extract` for all datasets together."""
        return sum(sweep.extractions for sweep in self.sweeps.values())

    def plan(self) -> int:
        """Plan all sweeps, so that errors are reported before any computation; returns the number of tasks.

        Writes the configuration of each sweep beside its plan, for `fmct launch sweep`. Raises FmctError as
        `Sweep.plan` does.
        """
        require_folder(self.out)
        inputs = [path for d in self.config.datasets for path in (d.labels, d.parts)]
        for table in ("results.parquet", "comparisons.parquet"):
            require_file(self.out / table, *inputs)
        tasks = sum(len(sweep.plan().tasks) for sweep in self.sweeps.values())
        for sweep in self.sweeps.values():
            values = sweep.config.model_dump(mode="json", exclude_defaults=True)
            write_text(sweep.out / SWEEP, json.dumps(values, indent=1) + "\n")
        return tasks

    def extract(self, task: int | None = None, progress: Progress = _silent) -> None:
        """Extract missing features; task: only this one, numbered across all datasets; None: all."""
        if task is None:
            for sweep in self.sweeps.values():
                sweep.extract(progress=progress)
            return
        sweep, number = self._nth(task, lambda sweep: sweep.extractions, "extraction task")
        sweep.extract(number, progress)

    def run_task(self, task: int, progress: Progress = _silent) -> int:
        """Compute missing units of one task, numbered across all datasets; returns their number."""
        sweep, number = self._nth(task, lambda sweep: len(read_plan(sweep.out).tasks), "task")
        return sweep.run_task(number, progress)

    def run_share(self, share: int, shares: int) -> int:
        """Compute a share of each dataset's tasks; returns the number of computed units."""
        return sum(sweep.run_share(share, shares) for sweep in self.sweeps.values())

    def collect(self) -> BenchmarkSummary:
        """Write the tables of finished units, for each dataset and for all."""
        summaries = {name: sweep.collect() for name, sweep in self.sweeps.items()}
        return write_tables(self.out, self.config, summaries)

    def status(self) -> str:
        """The state of each dataset, one line each."""
        return "\n".join(f"{name}: {sweep.status()}" for name, sweep in self.sweeps.items())

    def run(self, progress: Progress = _silent) -> BenchmarkSummary:
        """Run all steps here; finished units are reused."""
        self.plan()
        for sweep in self.sweeps.values():
            sweep.run(progress)
        return self.collect()

    def _nth(self, task: int, count: Callable[[Sweep], int], what: str) -> tuple[Sweep, int]:
        """The sweep of a task numbered across all datasets, and its number in that sweep."""
        sweeps = list(self.sweeps.values())
        ends = list(accumulate(count(sweep) for sweep in sweeps))
        for sweep, end, before in zip(sweeps, ends, [0, *ends], strict=False):
            if before <= task < end:
                return sweep, task - before
        raise FmctError(f"no {what} {task}: the datasets have {ends[-1]} in total, from 0")
