"""Computing one unit of a sweep: fit, score, and the figures of every test set."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fmct_hpc.probe.budget import Parts
from fmct_hpc.probe.cohort import Cohort
from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.probe.methods import Source
from fmct_hpc.probe.problem import Fitted, Problem
from fmct_hpc.probe.reasons import Reason, TooFewError, thresholds_lacking
from fmct_hpc.probe.statistics.area import Ranking
from fmct_hpc.probe.statistics.bootstrap import Draws, bootstrap
from fmct_hpc.probe.statistics.calibration import brier, reliability
from fmct_hpc.probe.statistics.operating_point import operating_thresholds, rates
from fmct_hpc.probe.statistics.scored import Scored
from fmct_hpc.probe.sweep.grid import Unit
from fmct_hpc.probe.sweep.tables import PREDICTIONS, RESULTS

Row = dict[str, object]


@dataclass(frozen=True)
class Cell:
    """A task and a seed of a unit: one classifier, or one a fold."""

    task: str
    seed: int
    folds: list[Parts]
    labels: NDArray[np.bool_]


@dataclass(frozen=True)
class _Test:
    """A test set under one cell's classifiers, joined over the folds."""

    cell: Cell
    split: str
    rows: NDArray[np.int64]
    scored: Scored
    thresholds: NDArray[np.float64]
    """(3, N), of each volume's fold: for the best balance, the asked specificity, the asked sensitivity."""
    chosen: list[dict[str, float]]


def compute(unit: Unit, source: Source) -> tuple[pa.Table, pa.Table]:
    """Results (`tables.RESULTS`) and predictions (`tables.PREDICTIONS`) of a unit.

    A task with too few patients for the budget, or for an area, has rows with a `reason` and no figures; one
    without a threshold to choose has a `threshold_reason` and no operating point.
    Raises FmctError for what the encoder doesn't have.
    """
    cohort, config = source.cohort, source.config
    chosen, rows = cells(unit, cohort)
    problems = [problem_of(cell, parts, cohort) for cell in chosen for parts in cell.folds]
    fitted = source.fit(unit.method, unit.layer, unit.pool, problems) if problems else []
    tests: list[_Test] = []
    for cell in chosen:
        own, fitted = fitted[: len(cell.folds)], fitted[len(cell.folds) :]
        tests += [_test(cell, split, own, cohort, config) for split in cell.folds[0].tests]
    for test, (roc, precision) in zip(tests, _areas(tests, config), strict=True):
        rows.append(_row(test, roc, precision, config))
    shared: Row = {**unit.model_dump(exclude={"seeds", "tasks"}), "step": source.step(unit.method)}
    results = pa.Table.from_pylist([{**shared, **row} for row in rows], RESULTS)
    return results, _predictions(shared, tests, cohort)


def cells(unit: Unit, cohort: Cohort) -> tuple[list[Cell], list[Row]]:
    """What of a unit can be fitted, and rows for the rest."""
    chosen: list[Cell] = []
    refused: list[Row] = []
    for task in unit.tasks:
        labels = cohort.values[:, cohort.tasks.index(task)] == 1
        for seed in unit.seeds:
            try:
                folds = cohort.parts(task, unit.budget, seed)
                if not folds[0].tests:
                    raise TooFewError(Reason.NO_TEST, "no patients to test on")
                chosen.append(Cell(task, seed, folds, labels))
            except TooFewError as lack:
                why: Row = {"reason": str(lack), "reason_code": lack.reason.value}
                refused.append({"task": task, "seed": seed, **why})
    return chosen, refused


def problem_of(cell: Cell, parts: Parts, cohort: Cohort) -> Problem:
    """What is to be fitted of a cell on one fold's parts; all tests, one behind another, are scored."""
    scored = np.concatenate(list(parts.tests.values()))
    if cohort.splits is not None:
        unlabelled = np.flatnonzero(cohort.splits == "train")
    else:
        # Patients of the fold's other parts are no part of training, whatever their labels.
        others = cohort.patient_keys[np.concatenate([scored, parts.validation])]
        unlabelled = np.flatnonzero(~np.isin(cohort.patient_keys, others))
    return Problem(cell.labels, parts.train, parts.validation, scored, unlabelled, cell.seed)


def _test(cell: Cell, split: str, fitted: Sequence[Fitted], cohort: Cohort, config: SweepConfig) -> _Test:
    rows, scores, folds, thresholds = [], [], [], []
    for number, (parts, found) in enumerate(zip(cell.folds, fitted, strict=True)):
        ends = np.cumsum([len(r) for r in parts.tests.values()])
        own = dict(zip(parts.tests, np.split(found.scores, ends[:-1]), strict=True))[split]
        rows.append(parts.tests[split])
        scores.append(own)
        folds.append(np.full(len(own), number))
        least = config.least_specificity, config.least_sensitivity
        chosen = operating_thresholds(found.validation, cell.labels[parts.validation], *least)
        thresholds.append(np.repeat(np.array(chosen)[:, None], len(own), axis=1))
    joined = np.concatenate(rows)
    patients = np.unique(cohort.patient_keys[joined], return_inverse=True)[1].astype(np.int64)
    scored = Scored(np.concatenate(scores), cell.labels[joined], patients, np.concatenate(folds))
    chosen_values = [found.chosen for found in fitted]
    return _Test(cell, split, joined, scored, np.concatenate(thresholds, axis=1), chosen_values)


def _areas(tests: Sequence[_Test], config: SweepConfig) -> list[tuple[Draws, Draws]]:
    """ROC areas and average precisions; tests of the same volumes share their resamples."""
    same: dict[bytes, list[int]] = {}
    for number, test in enumerate(tests):
        same.setdefault(test.rows.tobytes(), []).append(number)
    found: list[tuple[Draws, Draws] | None] = [None] * len(tests)
    for numbers in same.values():
        rankings = [Ranking(tests[number].scored) for number in numbers]
        patients = int(tests[numbers[0]].scored.patients.max()) + 1
        both = bootstrap(rankings, patients, config.bootstrap, seed=0)
        for number, roc, precision in zip(numbers, *both, strict=True):
            found[number] = roc, precision
    return [pair for pair in found if pair is not None]


def _row(test: _Test, roc: Draws, precision: Draws, config: SweepConfig) -> Row:
    scored = test.scored
    row: Row = {
        "task": test.cell.task,
        "seed": test.cell.seed,
        "split": test.split,
        "n_train": round(float(np.mean([len(parts.train) for parts in test.cell.folds]))),
        "n_validation": round(float(np.mean([len(parts.validation) for parts in test.cell.folds]))),
        "n": len(scored.labels),
        "positives": int(scored.labels.sum()),
        "patients": int(scored.patients.max()) + 1,
        "chosen": json.dumps(test.chosen),
    }
    if not scored.both_classes:
        why = {"reason": "volumes of one class only to test on", "reason_code": Reason.ONE_CLASS_TESTED.value}
        return {**row, **why}
    area, average = roc.interval(config.confidence), precision.interval(config.confidence)
    balance, specific, sensitive = (
        rates(scored.scores, scored.labels, thresholds) for thresholds in test.thresholds
    )
    curve = reliability(scored)
    return {
        **row,
        "auc": area.value,
        "auc_low": area.low,
        "auc_high": area.high,
        "auprc": average.value,
        "auprc_low": average.low,
        "auprc_high": average.high,
        "balanced_accuracy": balance.balanced_accuracy,
        "sensitivity": balance.sensitivity,
        "specificity": balance.specificity,
        "sensitivity_at": specific.sensitivity,
        "sensitivity_at_specificity": specific.specificity,
        "specificity_at": sensitive.specificity,
        "specificity_at_sensitivity": sensitive.sensitivity,
        "threshold_reason": thresholds_lacking(
            [test.cell.labels[parts.validation] for parts in test.cell.folds]
        ),
        "ece": curve.error,
        "brier": brier(scored),
        "reliability_predicted": curve.predicted.tolist(),
        "reliability_observed": curve.observed.tolist(),
        "reliability_volumes": curve.volumes.tolist(),
    }


def _predictions(shared: Row, tests: Sequence[_Test], cohort: Cohort) -> pa.Table:
    tables = []
    for test in tests:
        constant: Row = {**shared, "task": test.cell.task, "seed": test.cell.seed, "split": test.split}
        size = len(test.rows)
        columns: dict[str, pa.Array] = {}
        for field in PREDICTIONS:
            if field.name in constant:
                kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
                columns[field.name] = pa.repeat(pa.scalar(constant[field.name], kind), size)
        columns |= {
            "key": pa.array(cohort.keys[test.rows].tolist(), pa.string()),
            "fold": pa.array(test.scored.folds, pa.int32()),
            "label": pa.array(test.scored.labels),
            "score": pa.array(test.scored.scores),
        }
        tables.append(pa.table(columns).select(PREDICTIONS.names).cast(PREDICTIONS))
    return pa.concat_tables(tables) if tables else PREDICTIONS.empty_table()
