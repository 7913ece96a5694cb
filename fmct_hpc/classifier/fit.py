"""Fitting the classifiers of one cell of a sweep, for export."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fmct_hpc.classifier.calibration import calibrated
from fmct_hpc.classifier.record import KindRecord, StudyRecord, TaskRecord, Thresholds
from fmct_hpc.model.backbone import Backbone
from fmct_hpc.probe.cohort import Cohort
from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.probe.encoders import OurEncoder, open_encoder
from fmct_hpc.probe.heads import Head
from fmct_hpc.probe.kinds import BINARY
from fmct_hpc.probe.methods.registry import METHODS
from fmct_hpc.probe.problem import Fitted, Problem
from fmct_hpc.probe.samples import StudyCohort
from fmct_hpc.probe.series import ROLES
from fmct_hpc.probe.source import FitInput, Source
from fmct_hpc.probe.statistics.operating_point import operating_thresholds
from fmct_hpc.probe.sweep.cell import Cell
from fmct_hpc.probe.sweep.grid import Unit, units
from fmct_hpc.probe.sweep.run import Sweep
from fmct_hpc.probe.sweep.unit import cells, problem_of
from shards import Dataset
from shards.errors import FmctError
from shards.info import preprocessing_digest
from shards.roles import study_roles

Progress = Callable[[int, int], None]


class Fit(NamedTuple):
    """Fitted classifiers of the tasks."""

    unit: Unit
    """The unit, reduced to these tasks and one seed."""
    config: SweepConfig
    """The sweep, reduced to the unit's encoder and method."""
    cohort: Cohort
    encoder: OurEncoder
    """For fine-tuning, the fine-tuned encoder."""
    tasks: tuple[TaskRecord, ...]
    heads: tuple[Head, ...]
    refused: tuple[str, ...]
    """Tasks without a classifier, one line each with the reason."""

    @property
    def of_studies(self) -> StudyRecord | None:
        """The record for classifiers of studies; None for volumes."""
        cohort, unit = self.cohort, self.unit
        if not isinstance(cohort, StudyCohort):
            return None
        dataset = Dataset.open(self.config.data)
        record = dataset.preprocessing()
        if record is not None and unit.sample == "best" and "keep" in record.get("select", {}):
            record["select"] = {**record["select"], "keep": "best"}
        all_roles = study_roles(dataset.index).roles
        if cohort.members is None or cohort.volumes is None:
            used = all_roles[cohort.rows]
        else:
            used = all_roles[cohort.volumes.rows[cohort.members.volumes]]
        pooled = unit.pool is not None and unit.sample == "study"
        digest = dataset.info.config_digest if record is None else preprocessing_digest(record)
        return StudyRecord.model_validate(
            {
                "sample": unit.sample,
                "series_pool": self.config.series_pool if pooled else None,
                "roles": tuple(role for role in ROLES if role in used),
                "preprocessing": record,
                "preprocess_digest": digest,
            }
        )


def fit(
    config: SweepConfig,
    encoder: str | None = None,
    method: str | None = None,
    tasks: Sequence[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> Fit:
    """Fit the classifiers of one encoder, method and label budget of a sweep.

    The problems are identical to those of the sweep, so that scores of its volumes are the same. Missing
    features are extracted to the sweep's folder of features. encoder, method: optional if the sweep has only
    one. tasks: label columns, all of the sweep by default; exactly one for fine-tuning. The first seed is
    used.

    Raises FmctError if several cells match, for cross-validation (one classifier per fold), for external
    encoders, and if no task has enough patients.
    """
    config = _narrowed(config, encoder, method, tasks)
    spec = config.encoders[0]
    if spec.function is not None or spec.peer is not None:  # rejected before the function is run
        raise FmctError(f"encoder {spec.name}: only this package's own encoders can be exported")
    sweep = Sweep(config, config.features)
    if sweep.cohort.splits is None:
        raise FmctError(
            "folds: cross-validation has one classifier per fold, and none for new scans; set folds=null, "
            "or add a column split to the labels"
        )
    unit = _unit(config, sweep.cohort.tasks)
    cohort = sweep.cohorts[unit.sample]
    source = Source(config.encoders[0], config, cohort)
    opened = open_encoder(source.spec)
    assert isinstance(opened, OurEncoder)
    chosen, rows = cells(unit, cohort)
    refused = tuple(f"task {row['task']}: {row['reason']}" for row in rows)
    if not chosen:
        raise FmctError("\n".join(refused))
    sweep.extract(progress=progress)
    problems = [problem_of(cell, cell.folds[0], cohort) for cell in chosen]
    inputs = FitInput(source, unit.layer, unit.pool)
    fitted, module = METHODS[unit.method].fit_to_keep(inputs, problems)
    if module is not None:
        assert isinstance(module, Backbone)
        opened = OurEncoder(module.cpu(), opened.info)
    records = [_described(*of_task, config) for of_task in zip(chosen, problems, fitted, strict=True)]
    return Fit(
        unit.model_copy(update={"tasks": tuple(cell.task for cell in chosen)}),
        config,
        cohort,
        opened,
        tuple(records),
        tuple(found.head for found in fitted),
        refused,
    )


def _narrowed(
    config: SweepConfig, encoder: str | None, method: str | None, tasks: Sequence[str] | None
) -> SweepConfig:
    """The sweep, reduced to one encoder and method."""
    names = [spec.name for spec in config.encoders]
    name = _one("encoder", names, encoder)
    return config.model_copy(
        update={
            "encoders": tuple(spec for spec in config.encoders if spec.name == name),
            "methods": (_one("method", list(config.methods), method),),
            "tasks": tuple(tasks) if tasks else config.tasks,
        }
    )


def _one(what: str, available: list[str], wanted: str | None) -> str:
    if wanted is None and len(available) == 1:
        return available[0]
    if wanted not in available:
        problem = f"has no {what} {wanted}" if wanted else f"has several of --{what}; choose one"
        raise FmctError(f"the sweep {problem}: {', '.join(available)}")
    return wanted


def _unit(config: SweepConfig, tasks: Sequence[str]) -> Unit:
    """The unit of the remaining cell, with the first seed and all tasks."""
    matching = units(config, tasks)
    same = {(unit.layer, unit.pool, unit.fraction, unit.shots, unit.sample) for unit in matching}
    if len(same) > 1:
        raise FmctError(
            "the sweep has several layers, pools, samples or label budgets; choose one: layers=[-1] "
            "pools=[both] samples=[volume] fractions=[1.0] shots=[]"
        )
    if METHODS[matching[0].method].reads == "volumes" and len(tasks) > 1:
        raise FmctError(f"fine-tuning has one encoder per task; choose one: --task {tasks[0]}")
    return matching[0].model_copy(update={"seeds": matching[0].seeds[:1], "tasks": tuple(tasks)})


def _described(cell: Cell, problem: Problem, fitted: Fitted, config: SweepConfig) -> TaskRecord:
    if problem.kind != BINARY:
        return _of_kind(cell, problem, fitted, config)
    scores, labels = fitted.validation, problem.labels[problem.validation]
    thresholds = operating_thresholds(scores, labels, config.min_specificity, config.min_sensitivity)
    balanced, at_specificity, at_sensitivity = map(_finite, thresholds)
    return TaskRecord(
        task=cell.task,
        chosen=fitted.chosen,
        calibration=calibrated(scores, labels),
        thresholds=Thresholds(
            balanced=balanced, at_specificity=at_specificity, at_sensitivity=at_sensitivity
        ),
        train=len(problem.train),
        train_positives=int(problem.labels[problem.train].sum()),
        validation=len(problem.validation),
        validation_positives=int(labels.sum()),
    )


def _of_kind(cell: Cell, problem: Problem, fitted: Fitted, config: SweepConfig) -> TaskRecord:
    """The record of a label that is not binary, without calibration and thresholds."""
    events = problem.kind.values(problem.labels)[1]
    train, validation = (
        0 if events is None else int(events[rows].sum()) for rows in (problem.train, problem.validation)
    )
    return TaskRecord(
        task=cell.task,
        chosen=fitted.chosen,
        calibration=None,
        thresholds=Thresholds(balanced=None, at_specificity=None, at_sensitivity=None),
        train=len(problem.train),
        train_positives=train,
        validation=len(problem.validation),
        validation_positives=validation,
        kind=KindRecord(kind=config.kinds[cell.task], classes=problem.kind.classes),
    )


def _finite(threshold: float) -> float | None:
    """A finite threshold: 0 if below all scores; 2, which no score reaches, if above all; None for NaN."""
    return None if np.isnan(threshold) else float(np.clip(threshold, 0.0, 2.0))
