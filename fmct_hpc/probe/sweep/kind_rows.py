"""Result rows of labels that are not binary, with the metrics of their kind in one column."""

from collections.abc import Sequence
from itertools import islice

import numpy as np

from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.probe.kinds.base import Targets
from fmct_hpc.probe.reasons import Reason
from fmct_hpc.probe.statistics.bootstrap import Draws
from fmct_hpc.probe.statistics.curves import Curve
from fmct_hpc.probe.statistics.predictions import Measure, ScoredPredictions, resampled
from fmct_hpc.probe.sweep.cell import Row, Test


def kind_rows(tests: Sequence[Test], config: SweepConfig) -> list[Row]:
    """One row per test set; if the first metric is not defined, it has a `reason` and no metrics."""
    same: dict[bytes, list[int]] = {}
    for number, test in enumerate(tests):
        same.setdefault(test.rows.tobytes(), []).append(number)
    drawn: dict[int, list[list[Draws]]] = {}
    curves: dict[int, list[Curve]] = {}
    for numbers in same.values():  # test sets with the same volumes share their resamples
        measures: dict[int, list[Measure]] = {}
        for number in numbers:
            test = tests[number]
            scored, training = _scored(test), training_targets(test)
            curves[number] = test.cell.kind.curves(scored, training)
            measures[number] = [test.cell.kind.measure(scored, training)]
            measures[number] += [curve.observed for curve in curves[number]]
        patients = int(tests[numbers[0]].patients.max()) + 1
        every = [measure for own in measures.values() for measure in own]
        draws = iter(resampled(every, patients, config.bootstrap, seed=0))
        drawn |= {number: list(islice(draws, len(own))) for number, own in measures.items()}
    rows = []
    for number, test in enumerate(tests):
        figures, *observed = drawn[number]
        row = _row(test, figures, config)
        if "figures" in row:
            pairs = zip(curves[number], observed, strict=True)
            row["curves"] = [_curve(*pair, config.confidence) for pair in pairs]
        rows.append(row)
    return rows


def _curve(curve: Curve, observed: Sequence[Draws], confidence: float) -> Row:
    """A curve as in the column `curves`."""
    intervals = [own.interval(confidence) for own in observed]
    return {
        "name": curve.name,
        "at": curve.at,
        "predicted": curve.predicted.tolist(),
        "volumes": curve.volumes.tolist(),
        "observed": [own.value for own in intervals],
        "low": [own.low for own in intervals],
        "high": [own.high for own in intervals],
    }


def _scored(test: Test) -> ScoredPredictions:
    validation = [
        (fitted.validation, test.cell.labels[parts.validation])
        for parts, fitted in zip(test.cell.folds, test.fitted, strict=True)
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
