"""Areas under the ROC and the precision-recall curve, for many resamples of patients at once."""

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.statistics.scored import FloatArray, Scored
from shards.compiled import njit

_jit = njit(error_model="numpy")


class Ranking:
    """A test set in the order of its scores, so that each further area costs one pass."""

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

        counts: (R, patients), how often each patient was drawn; all volumes of a patient count as often.
        The ROC area is the share of (positive, negative) pairs in the right order, ties counting half
        (Mann-Whitney; Hanley and McNeil 1982). Average precision is the mean over positives of the
        precision at their score, Σ (R_k - R_k-1) P_k over thresholds, without interpolation. Both are
        taken inside each fold and averaged with the weight of its pairs, or its positives. NaN where a
        resample holds no pair.
        """
        return _areas(counts, self._patients, self._positive, self._ties_end, self._fold_ends)


def auc(scored: Scored) -> float:
    """Area under the ROC curve; NaN without a pair of both classes in a fold."""
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
    """One pass from the highest score down for each row of `counts`; sums of counts are exact in float64."""
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
