"""Standardised features of volumes, read in batches from a feature store to limit memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.config import Pool
from fmct_hpc.probe.heads import Scaling
from fmct_hpc.probe.statistics.scored import IntArray
from fmct_hpc.probe.store import FeatureStore

BATCH_BYTES = 2**26
"""Size of a batch."""


@dataclass(frozen=True)
class StoredFeatures:
    """Volumes of a store at one layer, given by `places` (N,), rows of the store."""

    arrays: tuple[NDArray[np.float32], ...]
    """Memory-mapped, (volumes of the store, width) each; concatenated along the width."""
    places: IntArray
    scaling: Scaling | None = None

    @classmethod
    def of(
        cls, store: FeatureStore, layer: int, pool: Pool, places: IntArray | None = None
    ) -> "StoredFeatures":
        """places: None for all volumes. Raises FmctError as `FeatureStore.vectors`."""
        return cls(tuple(store.mapped(layer, pool)), np.arange(len(store)) if places is None else places)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def width(self) -> int:
        """Channels."""
        return sum(array.shape[1] for array in self.arrays)

    @property
    def at_once(self) -> int:
        """Volumes per batch."""
        return max(1, BATCH_BYTES // (4 * self.width))

    def standardised_over(self, rows: IntArray) -> "StoredFeatures":
        """The same volumes, standardised by mean and deviation of `rows` (of these volumes).

        A transformer's raw features have a large common mean, so that all their cosines are nearly 1.
        """
        return replace(self, scaling=self._scaling(rows))

    def chosen(self, rows: IntArray) -> "StoredFeatures":
        """A subset of the volumes with the same scaling."""
        return replace(self, places=self.places[rows])

    def unit(self, rows: IntArray) -> NDArray[np.float32]:
        """Features of `rows`, standardised and of length 1: float32 (len(rows), width)."""
        return self.directions(self._read(self.places[rows]))

    def directions(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features (B, width) of other volumes, standardised with the same scaling and of length 1."""
        assert self.scaling is not None
        return self.scaling.directions(features).numpy()

    def batches(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the number of a batch's first volume, and the batch as returned by `unit`."""
        for rows in self._in_batches(np.arange(len(self))):
            yield int(rows[0]), self.unit(rows)

    def whole(self) -> NDArray[np.float32]:
        """`unit` of all volumes: 4 bytes per volume and channel, and one batch."""
        vectors = np.empty((len(self), self.width), np.float32)
        for first, batch in self.batches():
            vectors[first : first + len(batch)] = batch
        return vectors

    def _read(self, places: IntArray) -> NDArray[np.float32]:
        return np.concatenate([array[places] for array in self.arrays], axis=1)

    def _in_batches(self, rows: IntArray) -> list[IntArray]:
        return [rows[start : start + self.at_once] for start in range(0, len(rows), self.at_once)]

    def _scaling(self, rows: IntArray) -> Scaling:
        """`Scaling.over`, in two passes over the files."""
        parts = self._in_batches(rows)
        total = np.zeros(self.width)
        for part in parts:
            total += self._read(self.places[part]).sum(axis=0, dtype=np.float64)
        mean = total / len(rows)
        squares = np.zeros(self.width)
        for part in parts:
            squares += ((self._read(self.places[part]) - mean) ** 2).sum(axis=0)
        return Scaling.of(mean, np.sqrt(squares / len(rows)))
