"""Percentile bootstrap intervals over patients (Efron and Tibshirani 1993, chapter 13)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.statistics.area import Ranking
from fmct_hpc.probe.statistics.scored import FloatArray

RESAMPLES_AT_ONCE = 128
"""Upper bound of the block size, to limit memory: 26 MB for 100,000 patients."""


@dataclass(frozen=True)
class Interval:
    """A metric with its percentile bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Draws:
    """A metric of one classifier on the whole test set and on every resample."""

    value: float
    resampled: FloatArray
    """(resamples,); NaN where the metric is not defined, for example with a single class."""

    def interval(self, confidence: float, centred: bool = False) -> Interval:
        """Percentiles of the resamples for which the metric is defined.

        centred: for a metric of at least 0 that noise increases, so that resamples are biased upwards. They
        are shifted such that their median is the value.
        """
        usable = self.resampled[~np.isnan(self.resampled)]
        if not len(usable):
            return Interval(self.value, np.nan, np.nan)
        low, high = np.quantile(usable, [(1 - confidence) / 2, (1 + confidence) / 2])
        if centred:
            shift = self.value - np.median(usable)
            low, high = max(low + shift, 0.0), high + shift
        return Interval(self.value, float(low), float(high))

    def __sub__(self, other: "Draws") -> "Draws":
        """The difference over the same resamples; both must be from one call of `bootstrap`."""
        return Draws(self.value - other.value, self.resampled - other.resampled)


def resample_counts(patients: int, resamples: int, seed: int) -> Iterator[NDArray[np.uint16]]:
    """Yield blocks (R, patients) of how often each patient is drawn, `resamples` rows in total.

    A deterministic function of its arguments.
    """
    generator = np.random.Generator(np.random.Philox(key=seed))
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        rows = min(RESAMPLES_AT_ONCE, resamples - start)
        drawn = generator.integers(0, patients, (rows, patients), dtype=np.int32)
        counts = np.stack([np.bincount(row, minlength=patients) for row in drawn])
        yield counts.astype(np.uint16)


def bootstrap(
    rankings: Sequence[Ranking], patients: int, resamples: int, seed: int
) -> tuple[list[Draws], list[Draws]]:
    """ROC areas and average precisions of classifiers on one test set, over the same resamples.

    Resampling is by patient, since volumes of a patient are not independent.
    """
    whole = np.ones((1, patients), dtype=np.uint16)
    values = [ranking.areas(whole) for ranking in rankings]
    drawn: list[list[tuple[FloatArray, FloatArray]]] = [[] for _ in rankings]
    for counts in resample_counts(patients, resamples, seed):
        for ranking, parts in zip(rankings, drawn, strict=True):
            parts.append(ranking.areas(counts))
    roc, precision = (
        [
            Draws(float(value[kind][0]), np.concatenate([part[kind] for part in parts]))
            for value, parts in zip(values, drawn, strict=True)
        ]
        for kind in (0, 1)
    )
    return roc, precision
