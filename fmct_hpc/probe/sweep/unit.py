"""Computing one unit of a sweep: fitting, scoring, and metrics of every test set."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from fmct_hpc.probe.budget import Parts
from fmct_hpc.probe.cohort import Cohort
from fmct_hpc.probe.kinds import BINARY
from fmct_hpc.probe.problem import Fitted, Problem
from fmct_hpc.probe.reasons import Reason, TooFewError
from fmct_hpc.probe.source import Source
from fmct_hpc.probe.sweep.binary_rows import binary_rows
from fmct_hpc.probe.sweep.cell import Cell, Row, Test
from fmct_hpc.probe.sweep.grid import Unit
from fmct_hpc.probe.sweep.kind_rows import kind_rows
from fmct_hpc.probe.sweep.tables import PREDICTIONS, RESULTS


def compute(unit: Unit, source: Source) -> tuple[pa.Table, pa.Table]:
    """Results (`tables.RESULTS`) and predictions (`tables.PREDICTIONS`) of a unit.

    A task with too few patients for the budget, or for an area, has rows with a `reason` and no metrics. If
    no threshold can be chosen, the row has a `threshold_reason` and no operating point.
    Raises FmctError if the encoder lacks the method's input.
    """
    cohort, config = source.cohort, source.config
    chosen, rows = cells(unit, cohort)
    problems = [problem_of(cell, parts, cohort) for cell in chosen for parts in cell.folds]
    fitted = source.fit(unit.method, unit.layer, unit.pool, problems) if problems else []
    tests: list[Test] = []
    for cell in chosen:
        own, fitted = fitted[: len(cell.folds)], fitted[len(cell.folds) :]
        tests += [_test(cell, split, own, cohort) for split in cell.folds[0].tests]
    for binary, result_rows in ((True, binary_rows), (False, kind_rows)):
        rows += result_rows([test for test in tests if (test.cell.kind == BINARY) == binary], config)
    shared: Row = {**unit.model_dump(exclude={"seeds", "tasks"}), "step": source.step(unit.method)}
    results = pa.Table.from_pylist([{**shared, **row} for row in rows], RESULTS)
    return results, _predictions(shared, tests, cohort)


def cells(unit: Unit, cohort: Cohort) -> tuple[list[Cell], list[Row]]:
    """The cells of a unit that can be fitted, and result rows for the others."""
    chosen: list[Cell] = []
    refused: list[Row] = []
    for task in unit.tasks:
        kind, labels = cohort.kind(task), cohort.targets(task)
        for seed in unit.seeds:
            try:
                folds = cohort.parts(task, unit.budget, seed)
                if not folds[0].tests:
                    raise TooFewError(Reason.NO_TEST, "no test patients")
                chosen.append(Cell(task, seed, folds, labels, kind))
            except TooFewError as lack:
                reason: Row = {"reason": str(lack), "reason_code": lack.reason.value}
                refused.append({"task": task, "seed": seed, **reason})
    return chosen, refused


def problem_of(cell: Cell, parts: Parts, cohort: Cohort) -> Problem:
    """The problem of a cell for one fold's parts; the scored rows are all test sets, concatenated."""
    scored = np.concatenate(list(parts.tests.values()))
    if cohort.splits is not None:
        unlabelled = np.flatnonzero(cohort.splits == "train")
    else:
        # Patients of the fold's other parts are excluded, including their volumes without a label.
        others = cohort.patient_keys[np.concatenate([scored, parts.validation])]
        unlabelled = np.flatnonzero(~np.isin(cohort.patient_keys, others))
    return Problem(cell.labels, parts.train, parts.validation, scored, unlabelled, cell.seed, cell.kind)


def _test(cell: Cell, split: str, fitted: Sequence[Fitted], cohort: Cohort) -> Test:
    rows, predictions, folds = [], [], []
    for number, (parts, solution) in enumerate(zip(cell.folds, fitted, strict=True)):
        ends = np.cumsum([len(r) for r in parts.tests.values()])
        own = dict(zip(parts.tests, np.split(solution.scores, ends[:-1]), strict=True))[split]
        rows.append(parts.tests[split])
        predictions.append(own)
        folds.append(np.full(len(own), number))
    joined = np.concatenate(rows)
    patients = np.unique(cohort.patient_keys[joined], return_inverse=True)[1].astype(np.int64)
    return Test(cell, split, joined, np.concatenate(predictions), patients, np.concatenate(folds), fitted)


def _predictions(shared: Row, tests: Sequence[Test], cohort: Cohort) -> pa.Table:
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
            "fold": pa.array(test.folds, pa.int32()),
            **_prediction_columns(test),
        }
        tables.append(pa.table(columns).select(PREDICTIONS.names).cast(PREDICTIONS))
    return pa.concat_tables(tables) if tables else PREDICTIONS.empty_table()


def _prediction_columns(test: Test) -> dict[str, pa.Array]:
    """Truth and prediction of each volume, in the columns of its kind."""
    kind, size = test.cell.kind, len(test.rows)
    if kind == BINARY:
        nothing = {name: pa.nulls(size, PREDICTIONS.field(name).type) for name in ("value", "event")}
        nothing["probabilities"] = pa.nulls(size, PREDICTIONS.field("probabilities").type)
        return {"label": pa.array(test.targets), "score": pa.array(test.predictions), **nothing}
    predicted = kind.columns(test.predictions)
    values, events = kind.values(test.targets)
    return {
        "label": pa.nulls(size, pa.bool_()),
        "score": pa.array([one.score for one in predicted], pa.float64()),
        "value": pa.array(values, pa.float64()),
        "event": pa.nulls(size, pa.bool_()) if events is None else pa.array(events),
        "probabilities": pa.array([one.probabilities for one in predicted], pa.list_(pa.float64())),
    }
