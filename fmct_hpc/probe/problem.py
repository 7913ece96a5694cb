"""A classifier to fit on frozen features, and the fitted classifier: the interface of all methods."""

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
    """Volumes for training a classifier, for choosing its hyperparameters, and for scoring.

    labels: (N,) bool, or the targets of the label's kind, for all volumes; valid at the given rows. All row
    numbers are below N.
    """

    labels: Targets
    train: IntArray
    validation: IntArray
    """Hyperparameters are chosen on these by the kind's `choice_loss`; may be empty."""
    scored: IntArray
    unlabelled: IntArray
    """Rows for mean and deviation of the features, without labels: the whole training part."""
    seed: int
    kind: Kind = BINARY


@dataclass(frozen=True)
class Fitted:
    """Probabilities of the label; for labels that are not binary, predictions with a second axis."""

    validation: FloatArray
    """(len(problem.validation),), or (..., P)"""
    scores: FloatArray
    """(len(problem.scored),), or (..., P)"""
    chosen: dict[str, float]
    """Hyperparameters chosen on the validation volumes."""
    head: Head
    """The fitted classifier, for new volumes."""


def by_unlabelled(problems: Sequence[Problem]) -> list[list[int]]:
    """Numbers of the problems, grouped by equal `unlabelled` rows."""
    groups: dict[bytes, list[int]] = {}
    for number, problem in enumerate(problems):
        groups.setdefault(problem.unlabelled.tobytes(), []).append(number)
    return list(groups.values())
