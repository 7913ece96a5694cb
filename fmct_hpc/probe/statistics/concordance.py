"""Metrics of risks for times to an event: Harrell's C and areas at horizons, vectorised over resamples."""

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.statistics.scored import BoolArray, FloatArray, IntArray
from shards.compiled import njit

_jit = njit(error_model="numpy")


class Concordance:
    """Harrell's C (Harrell et al. 1996): the share of usable pairs with the higher risk at the earlier event.

    A pair is usable if the earlier time is an event, or, for equal times, if exactly one is an event. Equal
    risks count half. Pairs are within a fold.
    """

    def __init__(
        self, risks: FloatArray, times: FloatArray, events: BoolArray, patients: IntArray, folds: IntArray
    ) -> None:
        """Sort; (N,) each."""
        order = np.lexsort((events, -times, folds))
        self._patients = patients[order].astype(np.int32)
        self._events, times, folds = events[order], times[order], folds[order]
        new_fold = np.diff(folds, prepend=folds[:1] - 1) != 0
        self._fold_starts = new_fold
        self._time_ends = np.append(new_fold[1:] | (np.diff(times) != 0), True)
        self._ranks = np.unique(risks[order], return_inverse=True)[1].astype(np.int64)

    def __call__(self, counts: NDArray[np.uint16]) -> FloatArray:
        """(R, patients) -> (R,); NaN without usable pairs."""
        levels = int(self._ranks.max()) + 1
        return _concordances(
            counts, self._patients, self._events, self._ranks, self._time_ends, self._fold_starts, levels
        )


@_jit
def _concordances(
    counts: NDArray[np.uint16],
    patients: NDArray[np.int32],
    events: NDArray[np.bool_],
    ranks: NDArray[np.int64],
    time_ends: NDArray[np.bool_],
    fold_starts: NDArray[np.bool_],
    levels: int,
) -> FloatArray:
    """In descending order of time; a Fenwick tree (Fenwick 1994) counts the risks of the risk set."""
    concordances = np.empty(len(counts))
    tree = np.empty(levels + 1)
    exact = np.empty(levels)
    for row in range(len(counts)):
        right, pairs, total, start = 0.0, 0.0, 0.0, 0
        for i in range(len(patients)):
            if fold_starts[i]:
                tree[:] = 0.0
                exact[:] = 0.0
                total = 0.0
            weight = float(counts[row, patients[i]])
            if weight > 0:
                rank = ranks[i]
                if events[i]:  # censored volumes of the same time are in the tree already, events are not
                    below, place = 0.0, rank
                    while place > 0:
                        below += tree[place]
                        place -= place & -place
                    right += weight * (below + exact[rank] / 2)
                    pairs += weight * total
                else:
                    total += weight
                    exact[rank] += weight
                    place = rank + 1
                    while place <= levels:
                        tree[place] += weight
                        place += place & -place
            if time_ends[i]:
                for j in range(start, i + 1):
                    weight = float(counts[row, patients[j]])
                    if events[j] and weight > 0:
                        total += weight
                        exact[ranks[j]] += weight
                        place = ranks[j] + 1
                        while place <= levels:
                            tree[place] += weight
                            place += place & -place
                start = i + 1
        concordances[row] = right / pairs
    return concordances


class DynamicArea:
    """Cumulative/dynamic area at a horizon t with inverse censoring weights (Uno et al. 2007).

    Pairs consist of a volume with an event by t and one that is event-free beyond t. The area is the share of
    pairs in which the first has the higher risk, ties counting half, with the weight 1 / G(time -) of the
    first, where G is the probability of not being censored. Pairs are within a fold.
    """

    def __init__(
        self,
        risks: FloatArray,
        cases: FloatArray,
        controls: BoolArray,
        patients: IntArray,
        folds: IntArray,
    ) -> None:
        """Sort; (N,) each; cases: weights, 0 for other volumes."""
        order = np.lexsort((-risks, folds))
        self._patients, self._cases = patients[order].astype(np.int32), cases[order]
        self._controls, risks, folds = controls[order], risks[order], folds[order]
        new_fold = np.diff(folds, prepend=folds[:1] - 1) != 0
        self._ties_end = np.append(new_fold[1:] | (np.diff(risks) != 0), True)
        self._fold_ends = np.append(new_fold[1:], True)

    def __call__(self, counts: NDArray[np.uint16]) -> FloatArray:
        """(R, patients) -> (R,); NaN without pairs."""
        return _dynamic(counts, self._patients, self._cases, self._controls, self._ties_end, self._fold_ends)


@_jit
def _dynamic(
    counts: NDArray[np.uint16],
    patients: NDArray[np.int32],
    cases: FloatArray,
    controls: NDArray[np.bool_],
    ties_end: NDArray[np.bool_],
    fold_ends: NDArray[np.bool_],
) -> FloatArray:
    areas = np.empty(len(counts))
    for row in range(len(counts)):
        right, pairs = 0.0, 0.0
        above, others, tied, tied_others = 0.0, 0.0, 0.0, 0.0
        for i in range(len(patients)):
            weight = counts[row, patients[i]]
            tied += weight * cases[i]
            if controls[i]:
                tied_others += weight
            if ties_end[i]:
                right += tied_others * (above + tied / 2)
                above += tied
                others += tied_others
                tied, tied_others = 0.0, 0.0
                if fold_ends[i]:
                    pairs += above * others
                    above, others = 0.0, 0.0
        areas[row] = right / pairs
    return areas


def uncensored(times: FloatArray, events: BoolArray, at: FloatArray) -> FloatArray:
    """The probability G(t -) of not being censored before each of `at`, by Kaplan and Meier (1958).

    At equal times, events precede censoring, as is usual.
    """
    ends = np.unique(times[~events])
    if not len(ends):
        return np.ones(len(at))
    ordered = np.sort(times)
    left = np.sort(times[~events])
    ended = np.searchsorted(left, ends, side="right") - np.searchsorted(left, ends, side="left")
    event_times = np.sort(times[events])
    at_risk = len(ordered) - np.searchsorted(ordered, ends, side="left")
    died = np.searchsorted(event_times, ends, side="right") - np.searchsorted(event_times, ends, side="left")
    steps = np.cumprod(1 - ended / (at_risk - died))
    return np.append(1.0, steps)[np.searchsorted(ends, at, side="left")]
