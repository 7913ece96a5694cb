"""Search of more features than memory holds: candidates of an inverted file, ranked exactly afterwards.

faiss's IVF with a scalar quantiser (Douze et al. 2024, The Faiss library, sections 4.2 and 5): volumes are
in lists by their nearest of `lists` centres, a byte or half a byte a channel, and a question is compared with
those of the nearest lists.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.statistics.scored import IntArray
from fmct_hpc.retrieval.config import SearchConfig
from fmct_hpc.retrieval.search import nearest_of
from fmct_hpc.retrieval.stored import Stored
from shards.cores import usable_cores
from shards.errors import FmctError

CODES = {"ivf-sq8": 1.0, "ivf-sq4": 0.5}
"""Bytes a channel, the first that fits is taken."""
NEAREST = 10
"""Of the recall that is reported beside an index's figures: the greatest k of theirs."""
PER_LIST = 39
"""Training volumes a centre that faiss asks for at least."""
SEED = 0
GATHERED = 8192
"""Pairs whose cosines are taken at once: 100 MB of ViT-B's features."""


def exact_bytes(stored: Stored) -> int:
    """What the exact search holds of the features."""
    return 4 * len(stored) * stored.width


def chosen_search(stored: Stored, config: SearchConfig) -> str:
    """`exact`, or the first of `CODES` that fits into the budget; FmctError where none does."""
    if exact_bytes(stored) <= config.memory_gb * 1e9:
        return "exact"
    sizes = {code: _index_bytes(stored, each) for code, each in CODES.items()}
    for code, size in sizes.items():
        if size <= config.memory_gb * 1e9:
            return code
    needed = min(sizes.values()) / 1e9
    raise FmctError(
        f"search.memory_gb={config.memory_gb:g}: an index of {len(stored):,} volumes of {stored.width:,} "
        f"channels takes {needed:.2g} GB; give at least so much"
    )


def lists_for(volumes: int) -> int:
    """Four times the root of their number, as faiss's guidelines begin with, and few enough to train on."""
    return max(1, min(round(4 * volumes**0.5), volumes // PER_LIST))


def _index_bytes(stored: Stored, each: float) -> float:
    identifiers, centres = 8 * len(stored), 4 * lists_for(len(stored)) * stored.width
    return each * stored.width * len(stored) + identifiers + centres


class Index:
    """An index in memory of volumes whose features stay in their files."""

    def __init__(self, stored: Stored, code: str, config: SearchConfig) -> None:
        """Train and fill it, in batches; code: of `CODES`."""
        import faiss

        faiss.omp_set_num_threads(usable_cores())
        self._stored, width, lists = stored, stored.width, lists_for(len(stored))
        kind = {"ivf-sq8": faiss.ScalarQuantizer.QT_8bit, "ivf-sq4": faiss.ScalarQuantizer.QT_4bit}[code]
        self._centres = faiss.IndexFlatIP(width)  # the index refers to it and does not own it
        self._index: Any = faiss.IndexIVFScalarQuantizer(
            self._centres, width, lists, kind, faiss.METRIC_INNER_PRODUCT
        )
        self._index.nprobe = min(config.probes, lists)
        self._index.train(stored.unit(_drawn(len(stored), 2 * PER_LIST * lists)))
        for _, batch in stored.batches():
            self._index.add(batch)

    def nearest(self, asked: NDArray[np.float32], count: int) -> tuple[IntArray, NDArray[np.float32]]:
        """For each of asked (B, width), of length 1, up to `count` volumes, the nearest first.

        Numbers (B, count), -1 where the searched lists hold fewer, and their exact cosines, -inf there.
        """
        _, found = self._index.search(asked, min(count, len(self._stored)))
        found = np.asarray(found, np.int64)
        cosines = self._cosines(asked, found)
        order = np.argsort(-cosines, axis=1, kind="stable")
        return np.take_along_axis(found, order, axis=1), np.take_along_axis(cosines, order, axis=1)

    def _cosines(self, asked: NDArray[np.float32], found: IntArray) -> NDArray[np.float32]:
        """Of pairs (B, count), by one pass over the features."""
        flat = found.ravel()
        cosines = np.full(flat.shape, -np.inf, np.float32)
        pairs = np.argsort(flat, kind="stable")
        sorted_by = flat[pairs]
        for first, batch in self._stored.batches():
            begin, end = np.searchsorted(sorted_by, [first, first + len(batch)])
            for start in range(begin, end, GATHERED):
                own = pairs[start : min(start + GATHERED, end)]
                theirs = batch[flat[own] - first]
                cosines[own] = np.einsum("ij,ij->i", asked[own // found.shape[1]], theirs)
        return cosines.reshape(found.shape)


def _drawn(volumes: int, count: int) -> IntArray:
    """Some of the volumes in their order, evenly drawn."""
    if count >= volumes:
        return np.arange(volumes)
    generator = np.random.Generator(np.random.Philox(key=SEED))
    return np.sort(generator.choice(volumes, count, replace=False)).astype(np.int64)


def recall_of(index: Index, stored: Stored, candidates: int, questions: int = 64) -> float:
    """Mean share of the `NEAREST` truly nearest volumes among the index's first, of some drawn questions."""
    asked = stored.unit(_drawn(len(stored), questions))
    found = index.nearest(asked, candidates)[0][:, :NEAREST]
    nearest, _ = nearest_of(stored, asked, NEAREST)
    shares = [len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, nearest, strict=True)]
    return float(np.mean(shares))
