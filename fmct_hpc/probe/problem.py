"""One classifier to fit on frozen features, and what comes of it: the interface of all methods."""

from collections.abc import Sequence
from dataclasses import dataclass

from fmct_hpc.probe.heads import Head
from fmct_hpc.probe.kinds import BINARY, Kind
from fmct_hpc.probe.kinds.base import Targets
from fmct_hpc.probe.kinds.binary import log_loss
from fmct_hpc.probe.statistics.scored import FloatArray, IntArray

__all__ = ["Fitted", "Problem", "by_unlabelled", "log_loss"]


@dataclass(frozen=True)
class Problem:
    """Which volumes train a classifier, which choose its strength, and which it then scores.

    labels: of all volumes, meaningful at the rows named: (N,) bool, or what the kind has as targets. All
    rows are numbers below N.
    """

    labels: Targets
    train: IntArray
    validation: IntArray
    """What a method may choose is chosen on these by the kind's `choice_loss`; nothing without them."""
    scored: IntArray
    unlabelled: IntArray
    """Rows whose features, without labels, give the features' mean and deviation: the whole training part."""
    seed: int
    kind: Kind = BINARY


@dataclass(frozen=True)
class Fitted:
    """Probabilities of the label; of other kinds than binary, predictions with a second axis."""

    validation: FloatArray
    """(len(problem.validation),), or (..., P)"""
    scores: FloatArray
    """(len(problem.scored),), or (..., P)"""
    chosen: dict[str, float]
    """What was chosen on the validation volumes."""
    head: Head
    """What gave the scores, for volumes yet to come."""


def by_unlabelled(problems: Sequence[Problem]) -> list[list[int]]:
    """Numbers of the problems, grouped by equal `unlabelled` rows."""
    groups: dict[bytes, list[int]] = {}
    for number, problem in enumerate(problems):
        groups.setdefault(problem.unlabelled.tobytes(), []).append(number)
    return list(groups.values())
