"""Reliability curves of any kind of label: predictions and outcomes in bins, over resamples of patients."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.statistics.calibration import bin_numbers
from fmct_hpc.probe.statistics.predictions import Measure, Sums
from fmct_hpc.probe.statistics.scored import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class Curve:
    """A test set in bins of about equal numbers of volumes, sorted by prediction."""

    name: str
    predicted: FloatArray
    """(bins,), means of the bins' volumes."""
    volumes: IntArray
    """(bins,)"""
    observed: Measure
    """The outcome of each bin, (R, patients) -> (R, bins); NaN if a resample has none of its volumes."""
    at: float | None = None
    """For times to event, the time by which events are counted."""


def curve_of_means(name: str, predicted: FloatArray, truth: FloatArray, patients: IntArray) -> Curve:
    """Predictions and the means of values or of 0 and 1: (N,) each."""
    own, means = _binned(predicted)
    return Curve(name, means, own.sum(axis=0), _Means(truth, own, patients))


def curve_of_events(
    name: str, chances: FloatArray, times: FloatArray, events: BoolArray, at: float, patients: IntArray
) -> Curve:
    """Predicted probabilities of an event by the time `at`, and the share with one: (N,) each.

    The share is 1 minus the Kaplan-Meier estimate in the bin (Harrell 2015, Regression Modeling Strategies,
    section 20.9), since some volumes are censored before.
    """
    own, means = _binned(chances)
    shares = _EventShares(own, times, events, at, patients)
    return Curve(name, means, own.sum(axis=0), shares, at)


def _binned(predicted: FloatArray) -> tuple[BoolArray, FloatArray]:
    """Membership of volumes in bins, (N, bins), and the bins' mean predictions."""
    numbers = bin_numbers(predicted)
    own = numbers[:, None] == np.arange(numbers.max() + 1)
    return own, predicted @ own / own.sum(axis=0)


class _Means:
    def __init__(self, truth: FloatArray, own: BoolArray, patients: IntArray) -> None:
        self._sums = Sums(np.column_stack([truth[:, None] * own, own]), patients)

    def __call__(self, counts: NDArray[np.uint16]) -> FloatArray:
        totals, volumes = np.split(self._sums(counts), 2, axis=1)
        with np.errstate(invalid="ignore"):
            return totals / volumes


class _Bin(NamedTuple):
    """Volumes of a bin, sorted by time: (n,) each, and the times among them, (T,) each."""

    patients: IntArray
    events: BoolArray
    starts: IntArray
    """The first volume of each time."""
    counted: BoolArray
    """Whether a time is up to the horizon."""


class _EventShares:
    def __init__(
        self, own: BoolArray, times: FloatArray, events: BoolArray, at: float, patients: IntArray
    ) -> None:
        self._bins: list[_Bin] = []
        for column in own.T:
            rows = np.flatnonzero(column)
            rows = rows[np.argsort(times[rows], kind="stable")]
            ends, starts = np.unique(times[rows], return_index=True)
            self._bins.append(_Bin(patients[rows], events[rows], starts, ends <= at))

    def __call__(self, counts: NDArray[np.uint16]) -> FloatArray:
        return np.stack([_share(counts, each) for each in self._bins], axis=1)


def _share(counts: NDArray[np.uint16], own: _Bin) -> FloatArray:
    """1 minus the Kaplan-Meier estimate of a bin in resamples: (R, patients) -> (R,)."""
    weights = counts[:, own.patients].astype(np.float64)
    at_risk = weights[:, ::-1].cumsum(axis=1)[:, ::-1][:, own.starts]
    died = np.add.reduceat(weights * own.events, own.starts, axis=1)
    left = np.where(at_risk > 0, 1 - died / np.where(at_risk > 0, at_risk, 1), 1.0)
    return np.where(weights.any(axis=1), 1 - left[:, own.counted].prod(axis=1), np.nan)
