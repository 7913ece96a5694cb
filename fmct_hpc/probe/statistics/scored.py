"""Scores of a test set: what every statistic here is taken of."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Scored:
    """Volumes of a test set under one classifier, or under one classifier a fold.

    scores, labels, patients, folds: (N,). A score is a probability of the label; patients are numbered
    from 0 and a patient's volumes are in one fold. Scores of different folds come from different
    classifiers and have no common scale, so that areas compare volumes of one fold only.
    """

    scores: FloatArray
    labels: BoolArray
    patients: IntArray
    folds: IntArray

    @property
    def both_classes(self) -> bool:
        """Whether a fold holds a pair to compare; without one no area exists."""
        return any(len(np.unique(self.labels[self.folds == fold])) == 2 for fold in np.unique(self.folds))
