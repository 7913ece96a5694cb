"""Calibration of probabilities."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.statistics.predictions import Sums
from fmct_hpc.probe.statistics.scored import FloatArray, IntArray, Scored

BINS = 10
"""Bins with about equal numbers of volumes. The usual bins of equal width are mostly empty for a rare label
(Nguyen and O'Connor 2015, section 3)."""


@dataclass(frozen=True)
class Reliability:
    """The reliability curve: (bins,) each, bins sorted by probability."""

    predicted: FloatArray
    """Mean probability of a bin's volumes."""
    observed: FloatArray
    """Share of positives among them."""
    volumes: IntArray

    @property
    def error(self) -> float:
        """Expected calibration error: mean absolute difference, weighted by volumes (Guo et al. 2017)."""
        return float(np.abs(self.predicted - self.observed) @ self.volumes / self.volumes.sum())


def reliability(scored: Scored, bins: int = BINS) -> Reliability:
    """The reliability curve in bins of about equal size; equal probabilities are in the same bin."""
    order = np.argsort(scored.scores, kind="stable")
    scores, labels = scored.scores[order], scored.labels[order].astype(np.float64)
    starts = _starts(scores, bins)
    volumes = np.diff(np.append(starts, len(scores)))
    return Reliability(
        np.add.reduceat(scores, starts) / volumes, np.add.reduceat(labels, starts) / volumes, volumes
    )


def brier(scored: Scored) -> float:
    """Mean squared difference of probability and label (Brier 1950)."""
    return float(np.mean((scored.scores - scored.labels) ** 2))


def _starts(scores: FloatArray, bins: int) -> IntArray:
    """First index of each bin of sorted scores; equal scores are not separated."""
    wanted = np.arange(1, bins) * len(scores) // bins
    return np.unique(np.append(0, np.searchsorted(scores, scores[wanted], side="left")))


def bin_numbers(scores: FloatArray, bins: int = BINS) -> IntArray:
    """The bin of each of scores (N,), from 0, as of `reliability`."""
    ordered = np.sort(scores)
    starts = ordered[_starts(ordered, bins)]
    return np.asarray(np.searchsorted(starts, scores, side="right") - 1)


class CalibrationErrors:
    """Expected calibration errors of columns of probabilities, on all volumes equal to `Reliability.error`.

    Resamples use the bins of the whole test set.
    """

    def __init__(self, predicted: FloatArray, observed: FloatArray, patients: IntArray) -> None:
        """predicted, observed: (N, M), probabilities and outcomes."""
        self._volumes = Sums(np.ones((len(patients), 1)), patients)
        self._sums = []
        for column, truth in zip(predicted.T, observed.T, strict=True):
            numbers = bin_numbers(column)
            own = numbers[:, None] == np.arange(numbers.max() + 1)
            self._sums.append(Sums((column - truth)[:, None] * own, patients))

    def __call__(self, counts: NDArray[np.uint16]) -> FloatArray:
        """(R, patients) -> (R, M)."""
        apart = np.stack([np.abs(sums(counts)).sum(axis=1) for sums in self._sums], axis=1)
        return np.asarray(apart / self._volumes(counts))
