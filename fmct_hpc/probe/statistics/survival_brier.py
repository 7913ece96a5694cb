"""The integrated Brier score of predicted event-free probabilities."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.statistics.concordance import uncensored
from fmct_hpc.probe.statistics.predictions import Sums
from fmct_hpc.probe.statistics.scored import BoolArray, FloatArray, IntArray

STEPS = 100
"""Of the integral; the discretisation error is below the width of the confidence interval."""


def cumulative_hazard(risks: FloatArray, times: FloatArray, events: BoolArray, at: FloatArray) -> FloatArray:
    """Breslow's (1972) estimate of Cox's cumulative baseline hazard at times `at`; NaN without events.

    risks: logarithms of relative hazards, (N,); times, events: (N,). Returns (len(at),).
    """
    if not events.any():
        return np.full(len(at), np.nan)
    order = np.argsort(times, kind="stable")
    ordered = times[order]
    at_risk = np.exp(risks[order])[::-1].cumsum()[::-1]
    ends, died = np.unique(times[events], return_counts=True)
    steps = np.cumsum(died / at_risk[np.searchsorted(ordered, ends, side="left")])
    return np.append(0.0, steps)[np.searchsorted(ends, at, side="right")]


def kaplan_meier(times: FloatArray, events: BoolArray, at: FloatArray) -> FloatArray:
    """The event-free share beyond each time of `at` (Kaplan and Meier 1958), (len(at),)."""
    ends, died = np.unique(times[events], return_counts=True)
    at_risk = len(times) - np.searchsorted(np.sort(times), ends, side="left")
    return np.append(1.0, np.cumprod(1 - died / at_risk))[np.searchsorted(ends, at, side="right")]


@dataclass(frozen=True)
class Censored:
    """Follow-up times (N,), and events (N,), False where censored."""

    times: FloatArray
    events: BoolArray


class IntegratedBrier:
    """The score (Graf et al. 1999), and 1 minus its ratio to a reference curve's (Kattan and Gerds 2018).

    At a time t, a volume with an event at T <= t contributes the squared event-free probability, divided by
    G(T -); one that is event-free beyond t contributes the squared event probability, divided by G(t); others
    contribute 0. G is the probability of not being censored. The mean over volumes is integrated by the
    trapezoidal rule and divided by the horizon.
    """

    def __init__(
        self,
        survival: FloatArray,
        reference: FloatArray,
        at: FloatArray,
        tested: Censored,
        training: Censored,
        patients: IntArray,
    ) -> None:
        """survival: (N, T) event-free probabilities at times `at` (T,), 0 to the horizon; reference: (T,).

        training: the volumes on which G is estimated.
        """
        own = uncensored(training.times, training.events, tested.times)
        # For volumes followed beyond t, G is evaluated at t, including censoring at t.
        of_time = uncensored(training.times, training.events, np.nextafter(at, np.inf))
        case = tested.events[:, None] & (tested.times[:, None] <= at)
        weights = np.where(case, _inverse(own)[:, None], (tested.times[:, None] > at) * _inverse(of_time))
        columns = [np.ones(len(patients))]
        for chances in (survival, np.broadcast_to(reference, survival.shape)):
            wrong = np.where(case, chances, 1 - chances) ** 2 * weights
            columns.append(np.trapezoid(wrong, at, axis=1) / (at[-1] or np.nan))
        self._sums = Sums(np.stack(columns, axis=1), patients)

    def __call__(self, counts: NDArray[np.uint16]) -> FloatArray:
        """(R, patients) -> (R, 2)."""
        volumes, score, reference = self._sums(counts).T
        return np.stack([score / volumes, 1 - score / reference], axis=1)


def _inverse(chance: FloatArray) -> FloatArray:
    """1 / G; 0 where no training volume has that follow-up."""
    return np.where(chance > 0, 1 / np.where(chance > 0, chance, 1), 0.0)
