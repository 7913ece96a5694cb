"""The nearest volumes by exact cosine, in one pass over their features."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.statistics.scored import IntArray


def nearest_of(
    batches: Iterable[tuple[int, NDArray[np.float32]]], queries: NDArray[np.float32], count: int
) -> tuple[IntArray, NDArray[np.float32]]:
    """The `count` nearest volumes of queries (B, width), of unit length, and their cosines: (B, count) each.

    batches: of `StoredFeatures.batches`. Volumes with equal cosines are in their order.
    """
    numbers = np.zeros((len(queries), 0), np.int64)
    cosines = np.zeros((len(queries), 0), np.float32)
    for first, batch in batches:
        own = queries @ batch.T
        of_batch = np.broadcast_to(np.arange(first, first + len(batch)), own.shape)
        numbers = np.concatenate([numbers, of_batch], axis=1)
        cosines = np.concatenate([cosines, own], axis=1)
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        numbers = np.take_along_axis(numbers, best, axis=1)
        cosines = np.take_along_axis(cosines, best, axis=1)
    return numbers, cosines
