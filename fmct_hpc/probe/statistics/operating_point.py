"""Operating points: thresholds chosen on validation volumes, and their rates on test volumes."""

from dataclasses import dataclass

import numpy as np

from fmct_hpc.probe.statistics.scored import BoolArray, FloatArray


@dataclass(frozen=True)
class Rates:
    """Sensitivity and specificity at a threshold; NaN without volumes of the class."""

    sensitivity: float
    specificity: float

    @property
    def balanced_accuracy(self) -> float:
        """Their mean."""
        return (self.sensitivity + self.specificity) / 2


def rates(scores: FloatArray, labels: BoolArray, threshold: FloatArray | float) -> Rates:
    """Rates if every volume with a score at or above the threshold is positive.

    threshold: one for all volumes, or (N,). The rates are NaN if a threshold is NaN (could not be chosen).
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
    """The threshold of maximum balanced accuracy (Youden 1950); ties are resolved to the highest.

    It is halfway between two adjacent scores. NaN without both classes.
    """
    thresholds, sensitivity, specificity = _curve(scores, labels)
    if np.isnan(sensitivity[0] + specificity[0]):
        return np.nan
    return float(thresholds[np.argmax(sensitivity + specificity)])


def at_specificity(scores: FloatArray, labels: BoolArray, minimum: float) -> float:
    """The lowest threshold whose specificity is at least `minimum`; NaN without negatives."""
    thresholds, _, specificity = _curve(scores, labels)
    return float(thresholds[specificity >= minimum][-1]) if (~labels).any() else np.nan


def at_sensitivity(scores: FloatArray, labels: BoolArray, minimum: float) -> float:
    """The highest threshold whose sensitivity is at least `minimum`; NaN without positives."""
    thresholds, sensitivity, _ = _curve(scores, labels)
    return float(thresholds[sensitivity >= minimum][0]) if labels.any() else np.nan


def operating_thresholds(
    scores: FloatArray, labels: BoolArray, min_specificity: float, min_sensitivity: float
) -> tuple[float, float, float]:
    """Thresholds for the best balanced accuracy, the given specificity, and the given sensitivity."""
    return (
        most_balanced(scores, labels),
        at_specificity(scores, labels, min_specificity),
        at_sensitivity(scores, labels, min_sensitivity),
    )


def _curve(scores: FloatArray, labels: BoolArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Descending thresholds from above to below all scores, with their sensitivity and specificity."""
    distinct = np.unique(scores)[::-1]
    between = (distinct[:-1] + distinct[1:]) / 2
    thresholds = np.concatenate([[np.inf], between, [-np.inf]])
    positives, negatives = np.sort(scores[labels]), np.sort(scores[~labels])
    with np.errstate(invalid="ignore"):
        sensitivity = 1 - np.searchsorted(positives, thresholds) / np.float64(len(positives))
        specificity = np.searchsorted(negatives, thresholds) / np.float64(len(negatives))
    return thresholds, sensitivity, specificity
