"""Scores of a test set, the input of the statistics in this folder."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Scored:
    """Scores and labels of a test set, for one classifier or one classifier per fold.

    scores, labels, patients, folds: (N,). A score is a probability of the label; patients are numbered
    from 0, and a patient's volumes are in one fold. Scores of different folds are from different classifiers
    and have no common scale, so that areas only compare volumes within a fold.
    """

    scores: FloatArray
    labels: BoolArray
    patients: IntArray
    folds: IntArray

    @property
    def both_classes(self) -> bool:
        """Whether any fold has both classes, which an area requires."""
        return any(len(np.unique(self.labels[self.folds == fold])) == 2 for fold in np.unique(self.folds))
