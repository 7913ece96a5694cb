"""Result rows of labels that are not binary, with the metrics of their kind in one column."""

from collections.abc import Sequence

import numpy as np

from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.probe.kinds.base import Targets
from fmct_hpc.probe.reasons import Reason
from fmct_hpc.probe.statistics.bootstrap import Draws
from fmct_hpc.probe.statistics.predictions import ScoredPredictions, resampled
from fmct_hpc.probe.sweep.cell import Row, Test


def kind_rows(tests: Sequence[Test], config: SweepConfig) -> list[Row]:
    """One row per test set; if the first metric is not defined, it has a `reason` and no metrics."""
    same: dict[bytes, list[int]] = {}
    for number, test in enumerate(tests):
        same.setdefault(test.rows.tobytes(), []).append(number)
    drawn: dict[int, list[Draws]] = {}
    for numbers in same.values():  # test sets with the same volumes share their resamples
        measures = [
            test.cell.kind.measure(_judged(test), training_targets(test))
            for test in (tests[number] for number in numbers)
        ]
        patients = int(tests[numbers[0]].patients.max()) + 1
        drawn |= zip(numbers, resampled(measures, patients, config.bootstrap, seed=0), strict=True)
    return [_row(test, drawn[number], config) for number, test in enumerate(tests)]


def _judged(test: Test) -> ScoredPredictions:
    validation = [
        (found.validation, test.cell.labels[parts.validation])
        for parts, found in zip(test.cell.folds, test.fitted, strict=True)
    ]
    return ScoredPredictions(test.predictions, test.targets, test.patients, test.folds, validation)


def training_targets(test: Test) -> Targets:
    """Targets of all training volumes of the cell's classifiers."""
    return test.cell.labels[np.unique(np.concatenate([parts.train for parts in test.cell.folds]))]


def _row(test: Test, drawn: Sequence[Draws], config: SweepConfig) -> Row:
    kind = test.cell.kind
    row: Row = {**test.counted(), "kind": kind.name}
    _, events = kind.values(test.targets)
    if events is not None:
        row["positives"] = int(events.sum())
    if np.isnan(drawn[0].value):
        reason = f"{kind.figures[0]} is not defined for the test volumes"
        return {**row, "reason": reason, "reason_code": Reason.ONE_CLASS_TESTED.value}
    at = kind.at(training_targets(test))
    intervals = [
        one.interval(config.confidence, centred=name in kind.inflated)
        for name, one in zip(kind.figures, drawn, strict=True)
    ]
    figures = [
        {"name": name, "value": own.value, "low": own.low, "high": own.high, "at": at.get(name)}
        for name, own in zip(kind.figures, intervals, strict=True)
        if not np.isnan(own.value)  # metrics that are not defined are left out
    ]
    return {**row, "figures": figures}
