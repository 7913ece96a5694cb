"""Tests of two classifiers on one test set: DeLong's for areas under the ROC curve, Holm's correction.

DeLong, DeLong and Clarke-Pearson 1988, by midranks (Sun and Xu 2014). For patients with several volumes, the
components are first summed by patient (Obuchowski 1997).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from fmct_hpc.probe.statistics.scored import FloatArray, Scored


@dataclass(frozen=True)
class Comparison:
    """ROC areas of two classifiers, with the difference."""

    area: float
    other: float
    difference: float
    """First minus second."""
    low: float
    high: float
    p: float
    """Two-sided, for the hypothesis that the areas are equal."""


def areas_with_covariance(classifiers: list[Scored]) -> tuple[FloatArray, FloatArray]:
    """ROC areas (K,) and their covariance (K, K) for classifiers of the same volumes, in O(K N log N).

    Folds are weighted by their number of pairs, as in `area.auc`. The covariance is NaN if only one patient
    has positive, or negative, volumes.
    """
    from scipy.stats import rankdata  # whose import takes longer than all else here

    first, count = classifiers[0], len(classifiers)
    shares = np.zeros((count, len(first.labels)))
    rivals = np.zeros(len(first.labels))
    for fold in np.unique(first.folds):
        mine = first.folds == fold
        true, false = np.flatnonzero(mine & first.labels), np.flatnonzero(mine & ~first.labels)
        if not len(true) or not len(false):
            continue
        rivals[true], rivals[false] = len(false), len(true)
        for k, scored in enumerate(classifiers):
            both = rankdata(scored.scores[[*true, *false]])
            # Number of negatives below each positive, and of positives above each negative.
            shares[k, true] = both[: len(true)] - rankdata(scored.scores[true])
            shares[k, false] = len(true) - (both[len(true) :] - rankdata(scored.scores[false]))
    pairs = rivals[first.labels].sum()
    if not pairs:
        return np.full(count, np.nan), np.full((count, count), np.nan)
    areas = shares[:, first.labels].sum(axis=1) / pairs
    components = (shares - areas[:, None] * rivals) / pairs
    positive, negative = (
        np.stack([np.bincount(first.patients[rows], c[rows], first.patients.max() + 1) for c in components])
        for rows in (first.labels & (rivals > 0), ~first.labels & (rivals > 0))
    )
    sizes = [
        len(np.unique(first.patients[(rivals > 0) & rows]))
        for rows in (first.labels, ~first.labels, np.full(len(rivals), True))
    ]
    if min(sizes) < 2:
        return areas, np.full((count, count), np.nan)
    one, other, every = (size / (size - 1) for size in sizes)
    cross = positive @ negative.T
    covariance = one * positive @ positive.T + other * negative @ negative.T + every * (cross + cross.T)
    return areas, covariance


def compare(first: Scored, second: Scored, confidence: float) -> Comparison:
    """DeLong's test with the normal interval of the difference; both have the same volumes in one order."""
    both, covariance = areas_with_covariance([first, second])
    areas = float(both[0]), float(both[1])
    difference = areas[0] - areas[1]
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance <= 1e-12 and not difference:  # the same ranks
        return Comparison(*areas, difference, difference, difference, 1.0)
    error = np.sqrt(variance) if variance > 0 else np.nan
    reach = float(ndtri((1 + confidence) / 2)) * error
    p = float(2 * ndtr(-abs(difference) / error))
    return Comparison(*areas, difference, difference - reach, difference + reach, p)


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's (1979) adjusted p-values of a family of tests: (K,), NaN where a p-value is NaN."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted
