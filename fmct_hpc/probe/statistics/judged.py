"""Predictions of a test set for labels of any kind, and figures of them for many resamples of patients."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.statistics.bootstrap import Draws, resample_counts
from fmct_hpc.probe.statistics.scored import FloatArray, IntArray


@dataclass(frozen=True)
class Judged:
    """Volumes of a test set under one model, or one a fold.

    predictions: (N, P); targets: as their kind has them, a row a volume; patients, numbered from 0, and
    folds: (N,). validation: of each fold, predictions and targets of the volumes that chose its model; none
    where the first figure is enough.
    """

    predictions: FloatArray
    targets: NDArray[Any]
    patients: IntArray
    folds: IntArray
    validation: Sequence[tuple[FloatArray, NDArray[Any]]] = field(default=())


class Measure(Protocol):
    """Figures of a test set."""

    def __call__(self, counts: NDArray[np.uint16]) -> FloatArray:
        """(R, patients), how often each patient was drawn -> (R, figures), NaN where one is not defined."""
        ...


def resampled(measures: Sequence[Measure], patients: int, resamples: int, seed: int) -> list[list[Draws]]:
    """The figures of each measure on the whole test set and on resamples that all of them share."""
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
    """The first model's figure beside the second's."""

    value: float
    other: float
    difference: float
    low: float
    high: float
    p: float
    """Two-sided, of the hypothesis that the figures are equal."""


def paired(first: Draws, second: Draws, confidence: float) -> Paired:
    """The difference of two figures over the same resamples.

    p is twice the share of resamples in which the difference is on the other side of 0 or at it, (k + 1) /
    (R + 1) so that it is never 0 (Davison and Hinkley 1997, section 4.2): the percentile interval inverted.
    """
    apart = first - second
    interval = apart.interval(confidence)
    usable = apart.resampled[~np.isnan(apart.resampled)]
    if not len(usable):
        return Paired(first.value, second.value, apart.value, np.nan, np.nan, np.nan)
    least = min(int((usable <= 0).sum()), int((usable >= 0).sum()))
    p = min(1.0, 2 * (least + 1) / (len(usable) + 1))
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
