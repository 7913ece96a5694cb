"""Retrieval of volumes with the same label: mean average precision and recall, with intervals.

Every volume with the label is a query; the others are ranked by cosine, without volumes of the query's
patient and volumes with an unknown label.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from fmct_hpc.probe.statistics.bootstrap import Draws, resample_counts
from fmct_hpc.probe.statistics.scored import FloatArray, IntArray

KS = (1, 5, 10)


@dataclass(frozen=True)
class QueryResults:
    """Queries for one label: a row per volume with the label for which other such volumes exist."""

    patients: IntArray
    """(Q,)"""
    precision: FloatArray
    """(Q,): average precision of each ranking, or of its first part if an index returned no more."""
    hits: NDArray[np.bool_]
    """(Q, len(KS)): whether one of the first k has the label."""
    by_chance: FloatArray
    """(Q, 1 + len(KS)): expected precision and recalls of a random ranking."""


class Ranks(Protocol):
    """Interface: ranks volumes for queries."""

    @property
    def at_once(self) -> int:
        """Queries per call, to limit memory."""
        ...

    def ranked(self, rows: IntArray) -> IntArray:
        """Numbers of the volumes nearest to each of `rows`, the nearest first: (B, depth); -1 for none."""
        ...


def evaluate_queries(
    ranks: Ranks,
    patients: IntArray,
    labels: NDArray[np.floating],
    classes: Sequence[int] = (),
) -> list[QueryResults]:
    """Evaluate retrieval for each label, with all its volumes as queries.

    patients: (N,); labels: (N, T), 0, 1, or NaN where unknown; classes: the columns whose values are classes;
    the relevant volumes of a query then have its class.
    """
    parts: list[list[QueryResults]] = [[] for _ in range(labels.shape[1])]
    is_query = labels == 1
    is_query[:, list(classes)] = ~np.isnan(labels[:, list(classes)])
    queries = np.flatnonzero(is_query.any(axis=1))
    others = [_Others(own, patients) for own in labels.T]
    for rows in np.split(queries, range(0, len(queries), ranks.at_once))[1:]:
        order = ranks.ranked(rows)
        of_others = (order >= 0) & (patients[order] != patients[rows, None])
        for task, own in enumerate(labels.T):
            of_task = is_query[rows, task]
            ranked, mine = own[order[of_task]], rows[of_task]
            known = of_others[of_task] & ~np.isnan(ranked)
            right = known & (ranked == own[mine, None])
            parts[task].append(_of_rankings(patients[mine], known, right, *others[task].counted(mine)))
    return [_joined(of_task) for of_task in parts]


class _Others:
    """Numbers of volumes of other patients with a known label, and with the same label."""

    def __init__(self, own: NDArray[np.floating], patients: IntArray) -> None:
        known = ~np.isnan(own)
        self._class = np.unique(np.where(known, own, np.inf), return_inverse=True)[1]
        self._patient = patients
        self._pair = np.unique(np.stack([patients, self._class]), axis=1, return_inverse=True)[1]
        self._by_patient, self._by_class, self._by_pair = (
            np.bincount(numbers[known], minlength=int(numbers.max()) + 1)
            for numbers in (patients, self._class, self._pair)
        )

    def counted(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Both numbers for volumes with a known label: (B,) each."""
        volumes = self._by_patient.sum() - self._by_patient[self._patient[rows]]
        return volumes, self._by_class[self._class[rows]] - self._by_pair[self._pair[rows]]


def _of_rankings(
    patients: IntArray,
    known: NDArray[np.bool_],
    right: NDArray[np.bool_],
    volumes: IntArray,
    relevant: IntArray,
) -> QueryResults:
    """known, right: (Q, depth) in the order of each ranking; volumes, relevant: (Q,), at any rank.

    The average precision of a ranking with only n ranks is the sum over relevant volumes divided by the
    smaller of `relevant` and n.
    """
    some = relevant > 0
    patients, volumes, relevant = patients[some], volumes[some], relevant[some]
    known, right = known[some], right[some]
    place, hits = known.cumsum(axis=1), right.cumsum(axis=1)
    depth = known.sum(axis=1)
    most = np.minimum(relevant, depth)
    precision = (hits / np.maximum(place, 1) * right).sum(axis=1) / np.maximum(most, 1)
    hit = np.stack([(right & (place <= k)).any(axis=1) for k in KS], axis=1)
    chance = [_expected_precision(volumes, relevant, depth)]
    chance += [_expected_recall(volumes, relevant, k) for k in KS]
    return QueryResults(patients, precision, hit, np.stack(chance, axis=1))


def _expected_precision(volumes: IntArray, relevant: IntArray, depth: IntArray) -> FloatArray:
    """Expected average precision of the first n ranks of a random ranking of M volumes, R of them relevant.

    Rank i is relevant with probability R / M, and then (1 + (i - 1) p) / i of the first i are relevant, with
    p = (R - 1) / (M - 1). Hence R / M (p n + (1 - p) H) / min(R, n) with the n-th harmonic number H; for
    n = M this is Bestgen's (2015, equation 3).
    """
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, depth.max(initial=0) + 1))])[depth]
    pairs = (relevant - 1) / np.maximum(volumes - 1, 1)
    total = relevant / np.maximum(volumes, 1) * (pairs * depth + (1 - pairs) * harmonic)
    return np.asarray(total / np.maximum(np.minimum(relevant, depth), 1))


def _expected_recall(volumes: IntArray, relevant: IntArray, k: int) -> FloatArray:
    """1 - C(M - R, k) / C(M, k): the probability that one of k sampled volumes is relevant."""
    wrong = volumes - relevant
    few = wrong < k
    safe = np.where(few, k, wrong)
    whole = np.maximum(volumes, k)
    misses = np.exp(gammaln(safe + 1) - gammaln(safe - k + 1) - gammaln(whole + 1) + gammaln(whole - k + 1))
    return np.asarray(np.where(few, 1.0, 1 - misses))


def _joined(parts: Sequence[QueryResults]) -> QueryResults:
    if not parts:
        empty = np.zeros((0, 1 + len(KS)))
        return QueryResults(np.zeros(0, np.int64), empty[:, 0], empty[:, 1:] > 0, empty)
    return QueryResults(
        *(np.concatenate(columns) for columns in zip(*(_columns(part) for part in parts), strict=True))
    )


def _columns(evaluated: QueryResults) -> tuple[NDArray[np.generic], ...]:
    return evaluated.patients, evaluated.precision, evaluated.hits, evaluated.by_chance


def drawn(evaluated: QueryResults, resamples: int) -> Iterator[Draws]:
    """Mean average precision and recall at each of `KS`, on all patients with queries and on resamples.

    The ranked volumes stay the same; all queries of a patient are drawn together.
    """
    numbered = np.unique(evaluated.patients, return_inverse=True)[1]
    count = int(numbered.max(initial=-1)) + 1
    columns = np.column_stack([evaluated.precision, evaluated.hits])
    sums = np.stack([np.bincount(numbered, column, count) for column in columns.T], axis=1)
    queries = np.bincount(numbered, minlength=count)
    blocks = [
        (weights @ sums) / (weights @ queries)[:, None]
        for weights in resample_counts(count, resamples, seed=0)
    ]
    for value, resampled in zip(columns.mean(axis=0), np.concatenate(blocks).T, strict=True):
        yield Draws(float(value), resampled)
