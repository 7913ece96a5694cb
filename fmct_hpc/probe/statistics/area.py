"""Areas under the ROC and precision-recall curves, vectorised over resamples of patients."""

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.statistics.scored import FloatArray, Scored
from shards.compiled import njit

_jit = njit(error_model="numpy")


class Ranking:
    """A test set sorted by score, so that the area of a resample takes one pass."""

    def __init__(self, scored: Scored) -> None:
        """Sort; O(N log N)."""
        order = np.lexsort((-scored.scores, scored.folds))
        scores, folds = scored.scores[order], scored.folds[order]
        self._patients = scored.patients[order].astype(np.int32)
        self._positive = scored.labels[order]
        new_fold = np.diff(folds, prepend=folds[:1] - 1) != 0
        self._ties_end = np.append(new_fold[1:] | (np.diff(scores) != 0), True)
        self._fold_ends = np.append(new_fold[1:], True)

    def areas(self, counts: NDArray[np.uint16]) -> tuple[FloatArray, FloatArray]:
        """Area under the ROC curve and average precision for each resample: (R,) each.

        counts: (R, patients), how often each patient was drawn; all volumes of a patient have its weight.
        The ROC area is the share of (positive, negative) pairs in the correct order, ties counting half
        (Mann-Whitney; Hanley and McNeil 1982). Average precision is the mean over positives of the
        precision at their score, Σ (R_k - R_k-1) P_k over thresholds, without interpolation. Both are
        computed within each fold and averaged, weighted by its number of pairs, or of positives. NaN if a
        resample has no pair.
        """
        return _areas(counts, self._patients, self._positive, self._ties_end, self._fold_ends)


def auc(scored: Scored) -> float:
    """Area under the ROC curve; NaN if no fold has both classes."""
    once = np.ones((1, int(scored.patients.max()) + 1), dtype=np.uint16)
    return float(Ranking(scored).areas(once)[0][0])


@_jit
def _areas(
    counts: NDArray[np.uint16],
    patients: NDArray[np.int32],
    positive: NDArray[np.bool_],
    ties_end: NDArray[np.bool_],
    fold_ends: NDArray[np.bool_],
) -> tuple[FloatArray, FloatArray]:
    """One pass in descending order of scores per row of `counts`; sums of counts are exact in float64."""
    roc = np.empty(len(counts))
    precision = np.empty(len(counts))
    for row in range(len(counts)):
        right, pairs, summed, positives = 0.0, 0.0, 0.0, 0.0
        true, false, tied_true, tied_false = 0.0, 0.0, 0.0, 0.0
        fold_right, fold_summed = 0.0, 0.0
        for i in range(len(patients)):
            weight = counts[row, patients[i]]
            if positive[i]:
                tied_true += weight
            else:
                tied_false += weight
            if not ties_end[i]:
                continue
            fold_right += tied_false * (true + tied_true / 2)
            true += tied_true
            false += tied_false
            if tied_true > 0:
                fold_summed += tied_true * true / (true + false)
            tied_true, tied_false = 0.0, 0.0
            if fold_ends[i]:
                if true > 0 and false > 0:
                    right += fold_right
                    pairs += true * false
                    summed += fold_summed
                    positives += true
                true, false, fold_right, fold_summed = 0.0, 0.0, 0.0, 0.0
        roc[row] = right / pairs
        precision[row] = summed / positives
    return roc, precision
