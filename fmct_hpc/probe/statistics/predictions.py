"""Predictions of a test set for any kind of label, and their metrics over resamples of patients."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.statistics.bootstrap import Draws, resample_counts
from fmct_hpc.probe.statistics.scored import FloatArray, IntArray


@dataclass(frozen=True)
class ScoredPredictions:
    """Predictions and targets of a test set, for one model or one model per fold.

    predictions: (N, P); targets: those of the label's kind, one row per volume; patients, numbered from 0,
    and folds: (N,). validation: for each fold, predictions and targets of its validation volumes; empty if
    only the first metric is required.
    """

    predictions: FloatArray
    targets: NDArray[Any]
    patients: IntArray
    folds: IntArray
    validation: Sequence[tuple[FloatArray, NDArray[Any]]] = field(default=())


class Measure(Protocol):
    """Metrics of a test set."""

    def __call__(self, counts: NDArray[np.uint16]) -> FloatArray:
        """(R, patients), how often each patient was drawn -> (R, metrics), NaN where not defined."""
        ...


def resampled(measures: Sequence[Measure], patients: int, resamples: int, seed: int) -> list[list[Draws]]:
    """The metrics of each measure on the whole test set and on common resamples."""
    whole = np.ones((1, patients), dtype=np.uint16)
    values = [measure(whole)[0] for measure in measures]
    parts: list[list[FloatArray]] = [[] for _ in measures]
    for counts in resample_counts(patients, resamples, seed):
        for measure, own in zip(measures, parts, strict=True):
            own.append(measure(counts))
    return [
        [Draws(float(one), column) for one, column in zip(value, np.concatenate(own).T, strict=True)]
        for value, own in zip(values, parts, strict=True)
    ]


@dataclass(frozen=True)
class Paired:
    """A metric of two models, with the difference."""

    value: float
    other: float
    difference: float
    low: float
    high: float
    p: float
    """Two-sided, for the hypothesis that the metrics are equal."""


def paired(first: Draws, second: Draws, confidence: float) -> Paired:
    """The difference of two metrics over the same resamples.

    p is twice the share of resamples with a difference of the opposite sign or 0, computed as (k + 1) /
    (R + 1) and thus never 0 (Davison and Hinkley 1997, section 4.2): the percentile interval inverted.
    """
    apart = first - second
    interval = apart.interval(confidence)
    usable = apart.resampled[~np.isnan(apart.resampled)]
    if not len(usable):
        return Paired(first.value, second.value, apart.value, np.nan, np.nan, np.nan)
    fewer = min(int((usable <= 0).sum()), int((usable >= 0).sum()))
    p = min(1.0, 2 * (fewer + 1) / (len(usable) + 1))
    return Paired(first.value, second.value, apart.value, interval.low, interval.high, p)


class Sums:
    """Sums of columns over resampled volumes, by one matrix product."""

    def __init__(self, columns: FloatArray, patients: IntArray) -> None:
        """columns: (N, M)."""
        count = int(patients.max(initial=-1)) + 1
        self._by_patient = np.stack(
            [np.bincount(patients, weights=column, minlength=count) for column in columns.T], axis=1
        )

    def __call__(self, counts: NDArray[np.uint16]) -> FloatArray:
        """(R, patients) -> (R, M)."""
        return np.asarray(counts.astype(np.float64) @ self._by_patient)
