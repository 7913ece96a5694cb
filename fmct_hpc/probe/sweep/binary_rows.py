"""Result rows of binary labels: areas, operating points, calibration."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.probe.kinds import BINARY
from fmct_hpc.probe.reasons import Reason, thresholds_lacking
from fmct_hpc.probe.statistics.area import Ranking
from fmct_hpc.probe.statistics.bootstrap import Draws, bootstrap
from fmct_hpc.probe.statistics.calibration import brier, reliability
from fmct_hpc.probe.statistics.operating_point import operating_thresholds, rates
from fmct_hpc.probe.statistics.scored import Scored
from fmct_hpc.probe.sweep.cell import Row, Test


def binary_rows(tests: Sequence[Test], config: SweepConfig) -> list[Row]:
    """One row per test set; with a single class it has a `reason` and no metrics."""
    scored = [Scored(test.predictions, test.targets, test.patients, test.folds) for test in tests]
    areas = _areas(tests, scored, config)
    return [_row(test, own, *pair, config) for test, own, pair in zip(tests, scored, areas, strict=True)]


def _thresholds(test: Test, config: SweepConfig) -> NDArray[np.float64]:
    """Thresholds (3, N) of each volume's fold, in the order of `operating_thresholds`."""
    minimum = config.min_specificity, config.min_sensitivity
    chosen = [
        operating_thresholds(fitted.validation, test.cell.labels[parts.validation], *minimum)
        for parts, fitted in zip(test.cell.folds, test.fitted, strict=True)
    ]
    return np.array(chosen)[test.folds].T


def _areas(tests: Sequence[Test], scored: Sequence[Scored], config: SweepConfig) -> list[tuple[Draws, Draws]]:
    """ROC areas and average precisions; test sets with the same volumes share their resamples."""
    same: dict[bytes, list[int]] = {}
    for number, test in enumerate(tests):
        same.setdefault(test.rows.tobytes(), []).append(number)
    draws: list[tuple[Draws, Draws] | None] = [None] * len(tests)
    for numbers in same.values():
        rankings = [Ranking(scored[number]) for number in numbers]
        patients = int(tests[numbers[0]].patients.max()) + 1
        both = bootstrap(rankings, patients, config.bootstrap, seed=0)
        for number, roc, precision in zip(numbers, *both, strict=True):
            draws[number] = roc, precision
    return [pair for pair in draws if pair is not None]


def _row(test: Test, scored: Scored, roc: Draws, precision: Draws, config: SweepConfig) -> Row:
    row: Row = {**test.counted(), "kind": BINARY.name, "positives": int(scored.labels.sum())}
    if not scored.both_classes:
        reason = {"reason": "test volumes of one class only", "reason_code": Reason.ONE_CLASS_TESTED.value}
        return {**row, **reason}
    area, average = roc.interval(config.confidence), precision.interval(config.confidence)
    balance, specific, sensitive = (
        rates(scored.scores, scored.labels, thresholds) for thresholds in _thresholds(test, config)
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
