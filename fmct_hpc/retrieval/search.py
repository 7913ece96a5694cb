"""The most similar volumes of a feature store: exact search by cosine, in batches."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.config import Pool
from fmct_hpc.probe.statistics.scored import IntArray
from fmct_hpc.probe.store import FeatureStore
from fmct_hpc.retrieval.stored_features import StoredFeatures


class Neighbour(NamedTuple):
    """A volume of the store."""

    key: str
    patient_key: str
    study_key: str
    similarity: float
    """Cosine of the standardised features, -1 to 1."""


class Searched:
    """Search in a store by matrix products with batches of its memory-mapped features.

    There is no index, since building one reads all features, as does one exact search for any number of
    scans.
    """

    def __init__(self, store: FeatureStore, layer: int = -1, pool: Pool = "both") -> None:
        self._store = store
        self._stored = StoredFeatures.of(store, layer, pool).standardised_over(np.arange(len(store)))

    def nearest(self, features: NDArray[np.float32], count: int) -> list[list[Neighbour]]:
        """The `count` nearest volumes for each row of features (B, width), the nearest first."""
        queries = self._stored.directions(features)
        store = self._store
        return [
            [
                Neighbour(str(store.keys[i]), str(store.patient_keys[i]), str(store.study_keys[i]), cosine)
                for cosine, i in zip(cosines, rows, strict=True)
            ]
            for rows, cosines in (
                (rows.tolist(), cosines.tolist())
                for rows, cosines in zip(*nearest_of(self._stored, queries, count), strict=True)
            )
        ]


def nearest_of(
    stored: StoredFeatures, queries: NDArray[np.float32], count: int
) -> tuple[IntArray, NDArray[np.float32]]:
    """The exact `count` nearest volumes of asked (B, width) and their cosines, in one pass: (B, count)."""
    numbers = np.zeros((len(queries), 0), np.int64)
    cosines = np.zeros((len(queries), 0), np.float32)
    for first, batch in stored.batches():
        own = queries @ batch.T
        of_batch = np.broadcast_to(np.arange(first, first + len(batch)), own.shape)
        numbers = np.concatenate([numbers, of_batch], axis=1)
        cosines = np.concatenate([cosines, own], axis=1)
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        numbers = np.take_along_axis(numbers, best, axis=1)
        cosines = np.take_along_axis(cosines, best, axis=1)
    return numbers, cosines
