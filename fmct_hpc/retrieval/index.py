"""Search in features larger than memory: candidates from an inverted file, which are then ranked exactly.

faiss's IVF with a scalar quantiser (Douze et al. 2024, The Faiss library, sections 4.2 and 5): volumes are
assigned to the list of the nearest of `lists` centres, with 8 or 4 bits per channel, and a query is compared
with the volumes of the nearest lists.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.statistics.scored import IntArray
from fmct_hpc.retrieval.config import SearchConfig
from fmct_hpc.retrieval.exact import nearest_of
from fmct_hpc.retrieval.stored_features import StoredFeatures
from shards.cores import usable_cores

CODES = {"ivf-sq8": 1.0, "ivf-sq4": 0.5}
"""Bytes per channel; the first that fits is used."""
NEAREST = 10
"""k of the recall reported with an index's metrics: the largest k of those metrics."""
PER_LIST = 39
"""Minimum number of training volumes per centre required by faiss."""
SEED = 0
GATHERED = 8192
"""Pairs per block of cosines: 100 MB of ViT-B's features."""


def lists_for(volumes: int) -> int:
    """Four times the square root of their number, as in faiss's guidelines, limited by `PER_LIST`."""
    return max(1, min(round(4 * volumes**0.5), volumes // PER_LIST))


def index_bytes(stored: StoredFeatures, each: float) -> float:
    """Bytes of an index with `each` bytes per channel."""
    identifiers, centres = 8 * len(stored), 4 * lists_for(len(stored)) * stored.width
    return each * stored.width * len(stored) + identifiers + centres


class Index:
    """An in-memory index of volumes whose features are memory-mapped."""

    def __init__(self, stored: StoredFeatures, code: str, config: SearchConfig) -> None:
        """Train and fill the index in batches; code: one of `CODES`."""
        import faiss

        faiss.omp_set_num_threads(usable_cores())
        self._stored, width, lists = stored, stored.width, lists_for(len(stored))
        kind = {"ivf-sq8": faiss.ScalarQuantizer.QT_8bit, "ivf-sq4": faiss.ScalarQuantizer.QT_4bit}[code]
        self._centres = faiss.IndexFlatIP(width)  # the index refers to it and does not own it
        self._index: Any = faiss.IndexIVFScalarQuantizer(
            self._centres, width, lists, kind, faiss.METRIC_INNER_PRODUCT
        )
        self.probes = min(config.probes, lists)
        self._index.train(stored.unit(_drawn(len(stored), 2 * PER_LIST * lists)))
        for _, batch in stored.batches():
            self._index.add(batch)

    @property
    def probes(self) -> int:
        """Number of lists that are searched for each query."""
        return int(self._index.nprobe)

    @probes.setter
    def probes(self, number: int) -> None:
        self._index.nprobe = number

    def nearest(self, queries: NDArray[np.float32], count: int) -> tuple[IntArray, NDArray[np.float32]]:
        """For each of `queries` (B, width), of length 1, up to `count` volumes, the nearest first.

        Returns numbers (B, count), -1 if the searched lists have fewer, and exact cosines, -inf there.
        """
        _, rows = self._index.search(queries, min(count, len(self._stored)))
        rows = np.asarray(rows, np.int64)
        cosines = self._cosines(queries, rows)
        order = np.argsort(-cosines, axis=1, kind="stable")
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(cosines, order, axis=1)

    def _cosines(self, queries: NDArray[np.float32], volumes: IntArray) -> NDArray[np.float32]:
        """Cosines of pairs (B, count), in one pass over the features."""
        flat = volumes.ravel()
        cosines = np.full(flat.shape, -np.inf, np.float32)
        pairs = np.argsort(flat, kind="stable")
        sorted_by = flat[pairs]
        for first, batch in self._stored.batches():
            begin, end = np.searchsorted(sorted_by, [first, first + len(batch)])
            for start in range(begin, end, GATHERED):
                own = pairs[start : min(start + GATHERED, end)]
                theirs = batch[flat[own] - first]
                cosines[own] = np.einsum("ij,ij->i", queries[own // volumes.shape[1]], theirs)
        return cosines.reshape(volumes.shape)


def _drawn(volumes: int, count: int) -> IntArray:
    """A sorted uniform sample of volume numbers."""
    if count >= volumes:
        return np.arange(volumes)
    generator = np.random.Generator(np.random.Philox(key=SEED))
    return np.sort(generator.choice(volumes, count, replace=False)).astype(np.int64)


def recall_of(index: Index, stored: StoredFeatures, candidates: int, count: int = 64) -> float:
    """Mean share of the `NEAREST` true nearest neighbours among the index's first, for `count` queries."""
    sampled = stored.unit(_drawn(len(stored), count))
    approximate = index.nearest(sampled, candidates)[0][:, :NEAREST]
    nearest, _ = nearest_of(stored.batches(), sampled, NEAREST)
    shares = [len(np.intersect1d(a, b)) / len(b) for a, b in zip(approximate, nearest, strict=True)]
    return float(np.mean(shares))
