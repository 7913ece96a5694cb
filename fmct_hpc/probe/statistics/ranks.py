"""Spearman's rank correlation, vectorised over resamples of patients."""

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.statistics.scored import FloatArray, IntArray
from shards.compiled import njit

_jit = njit(error_model="numpy")


class RankCorrelation:
    """Two columns with their sort orders, so that a resample takes two passes."""

    def __init__(self, first: FloatArray, second: FloatArray, patients: IntArray) -> None:
        """Sort; (N,) each."""
        self._orders = np.stack([np.argsort(column, kind="stable") for column in (first, second)])
        self._ends = np.stack(
            [
                np.append(np.diff(column[order]) != 0, True)
                for column, order in zip((first, second), self._orders, strict=True)
            ]
        )
        self._patients = patients.astype(np.int32)

    def __call__(self, counts: NDArray[np.uint16]) -> FloatArray:
        """(R, patients) -> (R,): Pearson's correlation of midranks; NaN where a column is constant."""
        return _correlations(counts, self._patients, self._orders, self._ends)


@_jit
def _correlations(
    counts: NDArray[np.uint16],
    patients: NDArray[np.int32],
    orders: NDArray[np.int64],
    ends: NDArray[np.bool_],
) -> FloatArray:
    correlations = np.empty(len(counts))
    size = len(patients)
    ranks = np.empty((2, size))
    for row in range(len(counts)):
        for side in range(2):
            before, tied, start = 0.0, 0.0, 0
            for i in range(size):
                tied += counts[row, patients[orders[side, i]]]
                if ends[side, i]:
                    for j in range(start, i + 1):
                        ranks[side, orders[side, j]] = before + tied / 2
                    before += tied
                    tied, start = 0.0, i + 1
        # Ranks are between 0 and n here, 0.5 below the usual ones; their mean is n / 2.
        total = 0.0
        for i in range(size):
            total += counts[row, patients[i]]
        both, one, other = 0.0, 0.0, 0.0
        for i in range(size):
            weight = counts[row, patients[i]]
            a, b = ranks[0, i] - total / 2, ranks[1, i] - total / 2
            both += weight * a * b
            one += weight * a * a
            other += weight * b * b
        correlations[row] = both / np.sqrt(one * other) if one > 0 and other > 0 else np.nan
    return correlations
