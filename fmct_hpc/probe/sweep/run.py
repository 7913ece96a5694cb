"""A sweep from features to tables on one machine: extract, plan, compute, collect.

On a cluster the same steps run as separate jobs (`extract` and `run_task` in arrays, `collect`).
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from pydantic_core import to_json

from fmct_hpc.probe.cohort import Cohort, read_cohort
from fmct_hpc.probe.config import Sample, SweepConfig
from fmct_hpc.probe.encoders import open_encoder
from fmct_hpc.probe.extraction import Extraction
from fmct_hpc.probe.features import extract_share, extract_store
from fmct_hpc.probe.leakage import check_leakage
from fmct_hpc.probe.methods.registry import METHODS, reads
from fmct_hpc.probe.samples import of_sample
from fmct_hpc.probe.source import Source, require_methods
from fmct_hpc.probe.sweep import ledger
from fmct_hpc.probe.sweep.collect import Summary, collect_tables
from fmct_hpc.probe.sweep.grid import Unit, balanced_tasks, units
from fmct_hpc.probe.sweep.ledger import Plan, UnitFiles, UnitMarker
from fmct_hpc.probe.sweep.unit import compute
from shards import Dataset
from shards.errors import FmctError
from shards.info import sha256
from shards.ledger import Ledger
from shards.lock import writing
from shards.output_paths import require_file, require_folder
from shards.progress import register
from shards.share import WHOLE, Share
from shards.subject import Origin, Subject, claim

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Sweep:
    """A sweep's configuration and its output folder."""

    config: SweepConfig
    out: Path
    probed: Path | None = None
    """The probed run; only for `fmct probe`."""

    @cached_property
    def cohort(self) -> Cohort:
        """The labelled volumes; raises FmctError if data, labels or methods do not match."""
        config = self.config
        wanted = config.tasks or tuple(config.kinds)
        require_methods({task: spec for task, spec in config.kinds.items() if task in wanted}, config.methods)
        return read_cohort(
            config.data, config.labels, config.tasks, config.split, config.folds, config.parts, config.kinds
        )

    @cached_property
    def cohorts(self) -> dict[Sample, Cohort]:
        """The cohorts by sample: the labelled volumes, or their studies."""
        index = Dataset.open(self.config.data).index
        return {sample: of_sample(self.cohort, index, sample) for sample in self.config.samples}

    @cached_property
    def _sources(self) -> dict[tuple[str, Sample], Source]:
        return {
            (spec.name, sample): Source(spec, self.config, cohort)
            for spec in self.config.encoders
            for sample, cohort in self.cohorts.items()
        }

    @property
    def _encoders(self) -> tuple[str, ...]:
        """The recorded `EncoderSpec`s, for which the plan's check of patients is valid."""
        return tuple(to_json(spec.recorded()).decode() for spec in self.config.encoders)

    @property
    def extractions(self) -> int:
        """Number of tasks of `extract`; 0 if no method reads features."""
        if reads(self.config.methods) == {"volumes"}:
            return 0
        return len(self.config.encoders) * self.config.feature_tasks

    def extract(self, task: int | None = None, progress: Progress = _silent) -> None:
        """Extract missing features.

        task: only this one of `extractions` tasks; None: all, and join the parts. Raises FmctError as
        `extract_store` does.
        """
        if task is not None and not 0 <= task < self.extractions:
            raise FmctError(f"no extraction task {task}: there are {self.extractions}, from 0")
        if self.extractions:
            require_folder(self.config.features)
        dataset, shares = Dataset.open(self.config.data), self.config.feature_tasks
        for number, spec in enumerate(self.config.encoders):
            if not self.extractions or (task is not None and task // shares != number):
                continue
            request = Extraction(
                open_encoder(spec),
                spec.name,
                dataset,
                rows=self.cohort.rows,
                layers=self.config.layers,
                tokens="tokens" in reads(self.config.methods),
                batch=self.config.batch,
                device=self.config.device,
                spec_digest=spec.digest(),
            )
            out = self.config.features / spec.name
            if task is None:
                extract_store(request, out, progress)
            else:
                extract_share(request, out, Share(task % shares, shares), progress)

    def plan(self) -> Plan:
        """Divide the grid into tasks of about equal cost and write the plan; features may be missing.

        Raises FmctError if tested patients are, or may be, in an encoder's pretraining data and that is not
        allowed, if the tables of `collect` cannot be written or are the labels, and if `out` has results of
        another dataset or labels.
        """
        for table in (*ledger.TABLES, "comparisons"):
            require_file(self.out / f"{table}.parquet", self.config.labels, self.config.parts)
        grid = units(self.config, self.cohort.tasks)
        costs = [unit.seconds(self.cohorts[unit.sample], self.config) for unit in grid]
        allowed = self.config.allow_pretraining_patients, self.config.allow_unknown_pretraining
        tested = self.cohort.tested()
        plan = Plan(
            units=tuple(grid),
            digests=tuple(unit.digest(self.config, self.cohorts[unit.sample]) for unit in grid),
            seconds=tuple(costs),
            tasks=tuple(tuple(task) for task in balanced_tasks(costs, 60 * self.config.task_minutes)),
            encoders=self._encoders,
            leakage=tuple(
                check_leakage(spec.name, tested, spec.pretraining_patients, *allowed)
                for spec in self.config.encoders
            ),
        )
        with writing(self.out, "fmct sweep --plan"):
            self._claim(plan)
            ledger.write_plan(self.out, plan)
        return plan

    def _claim(self, plan: Plan) -> None:
        """Record the subject of the results; raises FmctError if `out` has results of another subject."""
        config, probed = self.config, self.probed
        content = Dataset.open(config.data).content_digest()
        sources = {
            **({"run": Origin.of(probed, config.encoders[0].digest())} if probed else {}),
            "dataset": Origin.of(config.data, content),
            "labels": Origin.of(config.labels, sha256(config.labels)),
        }
        files = (ledger.PLAN_NAME, *(f"{table}.parquet" for table in ledger.TABLES))
        known = ledger.shares_units(self.out, plan, encoders_too=probed is not None)
        subject = Subject(command="probe" if probed else "sweep", sources=sources)
        claim(self.out, subject, (*files, "encoder.safetensors") if probed else files, known)

    def run_task(self, task: int, progress: Progress = _silent) -> int:
        """Compute the missing units of a task and store each when finished; returns their number.

        Raises FmctError if the plan is of another configuration, labels or dataset, and if features are
        missing.
        """
        plan = self.current_plan()
        if not 0 <= task < len(plan.tasks):
            raise FmctError(f"no task {task}: {self.out / 'plan.json'} has {len(plan.tasks)}, from 0")
        return self._compute(plan, Share.only(task), progress)

    def _compute(self, plan: Plan, share: Share, progress: Progress = _silent) -> int:
        with writing(self.out, "fmct sweep", shared=True):
            own = self._ledger(plan, plan.share(share))
            register("sweep", self.out, share, total=len(own.units), of_all=len(plan.units))
            return own.make(partial(self._make, plan), progress, partial(self._remove_stale, plan))

    def _ledger(self, plan: Plan, numbers: Sequence[int]) -> Ledger[int, bool]:
        return Ledger(numbers, partial(self.is_done, plan))

    def _make(self, plan: Plan, number: int) -> None:
        unit = plan.units[number]
        source = self._sources[unit.encoder, unit.sample]
        start = time.monotonic()
        results, predictions = compute(unit, source)
        marker = UnitMarker(
            digest=plan.digests[number],
            source=self._source_digest(unit),
            seconds=time.monotonic() - start,
            results=results.num_rows,
        )
        tables = {"results": results, "predictions": predictions}
        UnitFiles(self.out, plan.digests[number]).write(tables, marker)

    def run_share(self, share: int, shares: int, progress: Progress = _silent) -> int:
        """Compute the tasks `share`, `share` + `shares` and so on; returns the number of computed units."""
        plan = self.current_plan()
        return self._compute(plan, Share(share, shares), progress)

    def collect(self) -> Summary:
        """Write three tables and summary.json from the finished units (`collect_tables`)."""
        plan = self.current_plan()
        done = self._ledger(plan, range(len(plan.units))).done()
        return collect_tables(self.out, plan, done, self.config, self.cohorts, self.cohort)

    def status(self) -> str:
        """The state of the sweep, in one line."""
        plan = self.current_plan()
        done = set(self._ledger(plan, range(len(plan.units))).done())
        to_do = [n for n, task in enumerate(plan.tasks) if not set(task) <= done]
        rest = f"; tasks to do: {','.join(map(str, to_do))}" if to_do else ""
        return f"{len(done)} of {len(plan.units)} units done, in {len(plan.tasks)} tasks{rest}"

    def run(self, progress: Progress = _silent) -> Summary:
        """Run all steps: plan, extract, compute, collect."""
        require_folder(self.out)
        if self.extractions:
            require_folder(self.config.features)
        plan = self.plan()  # first, since it checks the inputs
        self.extract(progress=progress)
        self._compute(plan, WHOLE, progress)
        return self.collect()

    def current_plan(self) -> Plan:
        """The written plan. Raises FmctError if it is of another configuration."""
        plan = ledger.read_plan(self.out)
        grid = units(self.config, self.cohort.tasks)
        digests = tuple(unit.digest(self.config, self.cohorts[unit.sample]) for unit in grid)
        if (plan.digests, plan.encoders) != (digests, self._encoders):
            raise FmctError(
                f"{self.out / 'plan.json'}: from another configuration, dataset or labels; "
                "run `fmct sweep --plan` again"
            )
        return plan

    def is_done(self, plan: Plan, number: int) -> bool:
        """Whether the unit's results exist and are of the current inputs."""
        try:
            source = self._source_digest(plan.units[number])
        except FmctError:  # no features yet
            return False
        return UnitFiles(self.out, plan.digests[number]).done(source)

    def _remove_stale(self, plan: Plan, numbers: list[int]) -> None:
        """Remove markers of other weights or features, since the number of markers is the progress."""
        for number in numbers:
            with suppress(FmctError):  # no features yet: the marker's source cannot be checked
                self._source_digest(plan.units[number])
                UnitFiles(self.out, plan.digests[number]).marker.unlink(missing_ok=True)

    def _source_digest(self, unit: Unit) -> str:
        source = self._sources[unit.encoder, unit.sample]
        if METHODS[unit.method].reads == "volumes":
            return source.spec_digest
        return source.store.info.source_digest
