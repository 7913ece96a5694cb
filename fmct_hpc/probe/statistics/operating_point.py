"""Thresholds, chosen on validation volumes, and what they do on the test's."""

from dataclasses import dataclass

import numpy as np

from fmct_hpc.probe.statistics.scored import BoolArray, FloatArray


@dataclass(frozen=True)
class Rates:
    """Sensitivity and specificity at one threshold; NaN without volumes of the class."""

    sensitivity: float
    specificity: float

    @property
    def balanced_accuracy(self) -> float:
        """Their mean."""
        return (self.sensitivity + self.specificity) / 2


def rates(scores: FloatArray, labels: BoolArray, threshold: FloatArray | float) -> Rates:
    """What calling every volume at or above its threshold positive gives; a threshold for all, or (N,).

    NaN where a threshold is: there was nothing to choose it by.
    """
    if np.isnan(threshold).any():
        return Rates(np.nan, np.nan)
    called = scores >= threshold
    true, false = labels.sum(), (~labels).sum()
    return Rates(
        float((called & labels).sum() / true) if true else np.nan,
        float((~called & ~labels).sum() / false) if false else np.nan,
    )


def most_balanced(scores: FloatArray, labels: BoolArray) -> float:
    """The threshold of greatest balanced accuracy (Youden 1950), of equal ones the highest.

    It lies half-way between two neighbouring scores. NaN without both classes.
    """
    thresholds, sensitivity, specificity = _curve(scores, labels)
    if np.isnan(sensitivity[0] + specificity[0]):
        return np.nan
    return float(thresholds[np.argmax(sensitivity + specificity)])


def at_specificity(scores: FloatArray, labels: BoolArray, least: float) -> float:
    """The lowest threshold whose specificity is at least `least`; NaN without negatives."""
    thresholds, _, specificity = _curve(scores, labels)
    return float(thresholds[specificity >= least][-1]) if (~labels).any() else np.nan


def at_sensitivity(scores: FloatArray, labels: BoolArray, least: float) -> float:
    """The highest threshold whose sensitivity is at least `least`; NaN without positives."""
    thresholds, sensitivity, _ = _curve(scores, labels)
    return float(thresholds[sensitivity >= least][0]) if labels.any() else np.nan


def operating_thresholds(
    scores: FloatArray, labels: BoolArray, min_specificity: float, min_sensitivity: float
) -> tuple[float, float, float]:
    """For the best balance, the asked specificity, the asked sensitivity."""
    return (
        most_balanced(scores, labels),
        at_specificity(scores, labels, min_specificity),
        at_sensitivity(scores, labels, min_sensitivity),
    )


def _curve(scores: FloatArray, labels: BoolArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Thresholds from above all scores to below all, with their sensitivity and specificity."""
    distinct = np.unique(scores)[::-1]
    between = (distinct[:-1] + distinct[1:]) / 2
    thresholds = np.concatenate([[np.inf], between, [-np.inf]])
    positives, negatives = np.sort(scores[labels]), np.sort(scores[~labels])
    with np.errstate(invalid="ignore"):
        sensitivity = 1 - np.searchsorted(positives, thresholds) / np.float64(len(positives))
        specificity = np.searchsorted(negatives, thresholds) / np.float64(len(negatives))
    return thresholds, sensitivity, specificity
