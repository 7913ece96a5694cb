"""Areas under the ROC curve with bootstrap intervals over patients."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

RESAMPLES_AT_ONCE = 256
"""Bounds the memory of the bootstrap to this many weight rows a volume."""


@dataclass(frozen=True)
class Interval:
    """A figure with its percentile bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def weighted_auc(
    scores: FloatArray, labels: NDArray[np.bool_], folds: NDArray[np.int64], weights: FloatArray
) -> FloatArray:
    """AUC for each row of `weights`, comparing only volumes that the same classifier scored.

    scores, labels, folds: (N,); weights: (R, N), how often a resample drew each volume. Returns (R,).
    The AUC is the share of (positive, negative) pairs in the right order, ties counting half
    (Mann-Whitney; Hanley and McNeil 1982). Pairs across folds are left out: scores of different
    classifiers have no common scale. NaN where a resample holds no pair.
    """
    right, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for fold in np.unique(folds):
        mine = np.flatnonzero(folds == fold)
        mine = mine[np.argsort(scores[mine], kind="stable")]
        ties = np.flatnonzero(np.diff(scores[mine], prepend=np.nan) != 0)
        positive = np.add.reduceat(weights[:, mine] * labels[mine], ties, axis=1)
        negative = np.add.reduceat(weights[:, mine] * ~labels[mine], ties, axis=1)
        below = np.cumsum(negative, axis=1) - negative
        right += (positive * (below + negative / 2)).sum(axis=1)
        pairs += positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return right / pairs


def patient_weights(patients: NDArray[np.int64], resamples: int, seed: int) -> FloatArray:
    """How often each volume stands in each of `resamples` bootstrap draws of patients: (R, N).

    patients: (N,) patient number of each volume. All volumes of a patient are drawn together, since they
    are not independent.
    """
    count = int(patients.max()) + 1
    generator = np.random.Generator(np.random.Philox(key=seed))
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
    return drawn[:, patients].astype(np.float64)


def auc_with_intervals(
    scores: list[FloatArray],
    labels: NDArray[np.bool_],
    folds: NDArray[np.int64],
    patients: NDArray[np.int64],
    resamples: int,
    confidence: float,
    seed: int,
) -> tuple[list[Interval], list[Interval]]:
    """AUC of each classifier, and of each its difference to the last one, over the same resamples.

    scores: one (N,) array a classifier. Resamples without a pair of both classes are left out.
    """
    whole = np.ones((1, len(labels)))
    values = np.array([weighted_auc(s, labels, folds, whole)[0] for s in scores])
    weights = patient_weights(patients, resamples, seed)
    blocks = [weights[i : i + RESAMPLES_AT_ONCE] for i in range(0, resamples, RESAMPLES_AT_ONCE)]
    draws = np.array([np.concatenate([weighted_auc(s, labels, folds, b) for b in blocks]) for s in scores])
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]

    def intervals(value: FloatArray, drawn: FloatArray) -> list[Interval]:
        bounds = np.nanquantile(drawn, tails, axis=1).T
        return [
            Interval(float(v), float(low), float(high)) for v, (low, high) in zip(value, bounds, strict=True)
        ]

    return intervals(values, draws), intervals(values - values[-1], draws - draws[-1])
