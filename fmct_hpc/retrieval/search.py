"""Search of volumes by cosine, for `fmct retrieval` and `fmct similar`: exact, or by an index."""

from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.statistics.scored import IntArray
from fmct_hpc.probe.store import FeatureStore
from fmct_hpc.retrieval.config import SearchConfig
from fmct_hpc.retrieval.exact import nearest_of
from fmct_hpc.retrieval.index import CODES, Index, index_bytes, lists_for, recall_of
from fmct_hpc.retrieval.stored_features import StoredFeatures
from shards.errors import FmctError

AT_ONCE = 2**24
"""Upper bound of queries × ranked volumes; about six such arrays are in memory: 1 GB."""
EXACT = "exact"


class Search:
    """Ranks the nearest of some volumes for queries."""

    def __init__(self, stored: StoredFeatures, name: str, depth: int | None, config: SearchConfig) -> None:
        """name: `EXACT`, or the index of `CODES` to build.

        depth: how many volumes to rank for each query; None for all, of an index `config.candidates`.
        """
        self.name = name
        self.volumes = len(stored)
        if depth is None:
            depth = self.volumes if name == EXACT else config.candidates
        self.depth = min(depth, self.volumes)
        # An index orders by rounded features, so that it ranks more volumes than are returned.
        self._fetched = self.depth if name == EXACT else min(max(depth, config.candidates), self.volumes)
        self._stored = stored
        self._whole: NDArray[np.float32] | None = None
        self._index = None if name == EXACT else Index(stored, name, config)

    @property
    def at_once(self) -> int:
        """Queries per call of `nearest`, which bounds memory."""
        if self._index is not None:
            return max(1, AT_ONCE // self._fetched)
        return max(
            1, AT_ONCE // (self.volumes if self._whole is not None else _compared(self._stored, self.depth))
        )

    def hold(self) -> None:
        """Keep the features in memory, for an exact search in several calls."""
        if self._index is None:
            self._whole = self._stored.whole()

    def nearest(self, queries: NDArray[np.float32]) -> tuple[IntArray, NDArray[np.float32]]:
        """For each of `queries` (B, width), of length 1, up to `depth` volumes, the nearest first.

        Returns numbers (B, depth), -1 if an index finds fewer, and exact cosines, -inf there.
        """
        if self._index is not None:
            numbers, cosines = self._index.nearest(queries, self._fetched)
            return numbers[:, : self.depth], cosines[:, : self.depth]
        batches: Iterable[tuple[int, NDArray[np.float32]]] = self._stored.batches()
        return nearest_of(batches if self._whole is None else [(0, self._whole)], queries, self.depth)

    def ranked(self, rows: IntArray) -> IntArray:
        """Numbers of the volumes nearest to each of `rows`: (B, depth)."""
        return self.nearest(self._stored.unit(rows) if self._whole is None else self._whole[rows])[0]

    @cached_property
    def recall(self) -> float | None:
        """The share of the truly nearest that the index finds, for sampled queries; None if exact."""
        return None if self._index is None else recall_of(self._index, self._stored, self._fetched)


def search_for(stored: StoredFeatures, queries: int, depth: int | None, config: SearchConfig) -> Search:
    """The search for a number of queries; raises FmctError as `chosen_search`."""
    search = Search(stored, chosen_search(stored, queries, depth, config), depth, config)
    if queries > search.at_once:
        search.hold()
    return search


def chosen_search(stored: StoredFeatures, queries: int, depth: int | None, config: SearchConfig) -> str:
    """`EXACT`, or the first of `CODES` that fits into the memory; raises FmctError if none fits.

    The exact search is also chosen beyond memory if one pass over the features answers all queries, and
    these are no more than the lists of the index: assigning the volumes to lists takes as many cosines.
    """
    memory = config.memory_gb * 1e9
    one_pass = queries <= min(lists_for(len(stored)), AT_ONCE // _compared(stored, depth))
    if one_pass or 4 * len(stored) * stored.width <= memory:
        return EXACT
    sizes = {code: index_bytes(stored, each) for code, each in CODES.items()}
    for code, size in sizes.items():
        if size <= memory:
            return code
    raise FmctError(
        f"search.memory_gb={config.memory_gb:g}: an index of {len(stored):,} volumes of {stored.width:,} "
        f"channels requires {min(sizes.values()) / 1e9:.2g} GB; increase it at least to that"
    )


def _compared(stored: StoredFeatures, depth: int | None) -> int:
    """Volumes per query in memory during a pass: those of a batch, and those found."""
    return max(min(stored.at_once, len(stored)), len(stored) if depth is None else min(depth, len(stored)), 1)


class Neighbour(NamedTuple):
    """A volume of a store."""

    key: str
    patient_key: str
    study_key: str
    similarity: float
    """Cosine of the standardised features, -1 to 1."""


def neighbours(
    store: FeatureStore, features: NDArray[np.float32], count: int, config: SearchConfig | None = None
) -> list[list[Neighbour]]:
    """The `count` nearest volumes of a store for each row of features (B, width), the nearest first.

    features: CLS tokens and means of the last layer. Standardised by all volumes of the store.
    """
    stored = StoredFeatures.of(store, -1, "both").standardised_over(np.arange(len(store)))
    search = search_for(stored, len(features), count, config or SearchConfig())
    queries, nearest = stored.directions(features), []
    for start in range(0, len(queries), search.at_once):
        numbers, cosines = search.nearest(queries[start : start + search.at_once])
        for rows, own in zip(numbers.tolist(), cosines.tolist(), strict=True):
            pairs = [(row, cosine) for row, cosine in zip(rows, own, strict=True) if row >= 0]
            nearest.append([_neighbour(store, *pair) for pair in pairs])
    return nearest


def _neighbour(store: FeatureStore, row: int, cosine: float) -> Neighbour:
    return Neighbour(str(store.keys[row]), str(store.patient_keys[row]), str(store.study_keys[row]), cosine)
