"""One classifier to fit on frozen features, and what comes of it: the interface of all methods."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fmct_hpc.probe.heads import Head
from fmct_hpc.probe.statistics.scored import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class Problem:
    """Which volumes train a classifier, which choose its strength, and which it then scores.

    labels: (N,) of all volumes, meaningful at the rows named. All rows are numbers below N.
    """

    labels: BoolArray
    train: IntArray
    validation: IntArray
    """What a method may choose is chosen on these by `log_loss`; nothing is chosen where there are none."""
    scored: IntArray
    unlabelled: IntArray
    """Rows whose features, without labels, give the features' mean and deviation: the whole training part."""
    seed: int


@dataclass(frozen=True)
class Fitted:
    """Probabilities of the label."""

    validation: FloatArray
    """(len(problem.validation),)"""
    scores: FloatArray
    """(len(problem.scored),)"""
    chosen: dict[str, float]
    """What was chosen on the validation volumes."""
    head: Head
    """What gave the scores, for volumes yet to come."""


def log_loss(probabilities: FloatArray, labels: BoolArray) -> FloatArray:
    """Mean negative log-likelihood along the last axis; 0 without volumes.

    What methods choose by: it tells strengths apart on few volumes, where areas under curves tie. A
    probability counts as at least 1e-6, as a vote of neighbours may be 0.
    """
    if not len(labels):
        return np.zeros(probabilities.shape[:-1])
    right = np.where(labels, probabilities, 1 - probabilities)
    return np.asarray(-np.log(np.maximum(right, 1e-6)).mean(axis=-1))


def by_unlabelled(problems: Sequence[Problem]) -> list[list[int]]:
    """Numbers of the problems, grouped by equal `unlabelled` rows."""
    groups: dict[bytes, list[int]] = {}
    for number, problem in enumerate(problems):
        groups.setdefault(problem.unlabelled.tobytes(), []).append(number)
    return list(groups.values())
