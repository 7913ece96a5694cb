"""How well volumes of a label find one another: mean average precision and recall, with intervals.

Every volume with the label asks; the others are ranked by cosine. Volumes of the asking patient are left out,
and those whose label is unknown.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from fmct_hpc.probe.heads import Scaling
from fmct_hpc.probe.statistics.bootstrap import Draws, resample_counts
from fmct_hpc.probe.statistics.scored import FloatArray, IntArray

KS = (1, 5, 10)
AT_ONCE = 2**24
"""Bounds questions × volumes of one ranking, of which some six arrays are in memory: 1 GB."""


@dataclass(frozen=True)
class Asked:
    """Of one label: a row for each volume that has it and has others of it to find."""

    patients: IntArray
    """(Q,)"""
    precision: FloatArray
    """(Q,): average precision of each ranking."""
    found: NDArray[np.bool_]
    """(Q, len(KS)): whether one of the first k has the label."""
    by_chance: FloatArray
    """(Q, 1 + len(KS)): what a random ranking gives on average, of precision and of each recall."""


def unit_features(features: NDArray[np.floating], rows: IntArray) -> NDArray[np.float32]:
    """Features (N, width) in deviations from their mean over `rows`, scaled to length 1."""
    return Scaling.over(features, rows).directions(features).numpy()


def ask(
    unit: NDArray[np.float32],
    patients: IntArray,
    labels: NDArray[np.floating],
    classes: Sequence[int] = (),
) -> list[Asked]:
    """Let all volumes ask for each label.

    unit: (N, width), of length 1; patients: (N,); labels: (N, T), 0, 1, or NaN where unknown; classes: the
    columns whose values are classes, of which each volume asks for its own.
    """
    parts: list[list[Asked]] = [[] for _ in range(labels.shape[1])]
    asks = labels == 1
    asks[:, list(classes)] = ~np.isnan(labels[:, list(classes)])
    asking = np.flatnonzero(asks.any(axis=1))
    for rows in np.split(asking, range(0, len(asking), max(1, AT_ONCE // len(unit))))[1:]:
        order = np.argsort(-(unit[rows] @ unit.T), axis=1, kind="stable")
        others = patients[order] != patients[rows, None]
        for task, own in enumerate(labels.T):
            of_task = asks[rows, task]
            ranked = own[order[of_task]]
            known = others[of_task] & ~np.isnan(ranked)
            parts[task].append(
                _of_rankings(patients[rows[of_task]], known, known & (ranked == own[rows[of_task], None]))
            )
    return [_joined(of_task) for of_task in parts]


def _of_rankings(patients: IntArray, known: NDArray[np.bool_], right: NDArray[np.bool_]) -> Asked:
    """known, right: (Q, N) in the order of each ranking."""
    some = right.any(axis=1)
    patients, known, right = patients[some], known[some], right[some]
    place, hits = known.cumsum(axis=1), right.cumsum(axis=1)
    volumes, relevant = known.sum(axis=1), right.sum(axis=1)
    precision = (hits / np.maximum(place, 1) * right).sum(axis=1) / np.maximum(relevant, 1)
    found = np.stack([(right & (place <= k)).any(axis=1) for k in KS], axis=1)
    chance = [_expected_precision(volumes, relevant), *(_expected_recall(volumes, relevant, k) for k in KS)]
    return Asked(patients, precision, found, np.stack(chance, axis=1))


def _expected_precision(volumes: IntArray, relevant: IntArray) -> FloatArray:
    """Average precision of a random ranking of M volumes of which R are right (Bestgen 2015, equation 3):
    ((R - 1) / (M - 1) · (M - H) + H) / M, where H is the M-th harmonic number."""
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, volumes.max(initial=0) + 1))])[volumes]
    pairs = (relevant - 1) / np.maximum(volumes - 1, 1)
    return np.asarray((pairs * (volumes - harmonic) + harmonic) / np.maximum(volumes, 1))


def _expected_recall(volumes: IntArray, relevant: IntArray, k: int) -> FloatArray:
    """1 - C(M - R, k) / C(M, k): that one of k drawn volumes is right."""
    wrong = volumes - relevant
    few = wrong < k
    safe = np.where(few, k, wrong)
    whole = np.maximum(volumes, k)
    misses = np.exp(gammaln(safe + 1) - gammaln(safe - k + 1) - gammaln(whole + 1) + gammaln(whole - k + 1))
    return np.asarray(np.where(few, 1.0, 1 - misses))


def _joined(parts: Sequence[Asked]) -> Asked:
    if not parts:
        empty = np.zeros((0, 1 + len(KS)))
        return Asked(np.zeros(0, np.int64), empty[:, 0], empty[:, 1:] > 0, empty)
    return Asked(
        *(np.concatenate(columns) for columns in zip(*(_columns(part) for part in parts), strict=True))
    )


def _columns(asked: Asked) -> tuple[NDArray[np.generic], ...]:
    return asked.patients, asked.precision, asked.found, asked.by_chance


def drawn(asked: Asked, resamples: int) -> Iterator[Draws]:
    """Mean average precision and recall at each of `KS`, on all asking patients and on resamples of them.

    The volumes among which they look stay the same; all of a patient's questions are drawn together.
    """
    numbered = np.unique(asked.patients, return_inverse=True)[1]
    count = int(numbered.max(initial=-1)) + 1
    columns = np.column_stack([asked.precision, asked.found])
    sums = np.stack([np.bincount(numbered, column, count) for column in columns.T], axis=1)
    asking = np.bincount(numbered, minlength=count)
    blocks = [
        (weights @ sums) / (weights @ asking)[:, None]
        for weights in resample_counts(count, resamples, seed=0)
    ]
    for value, resampled in zip(columns.mean(axis=0), np.concatenate(blocks).T, strict=True):
        yield Draws(float(value), resampled)
