"""Which volumes are in the global batch of a step: a pure function of the seed and the step.

The samples of epoch 0, then of epoch 1, and so on form one endless sequence; the global batch of
step s is its slice [s·batch, (s+1)·batch). A batch may straddle two epochs, so that every sample
appears exactly once an epoch and none is dropped. An epoch's order is a format-preserving
permutation, computed entry by entry, so that a data set of any size costs no memory.
"""

from dataclasses import dataclass

import numpy as np

from shards.errors import FmctError

# Luby and Rackoff 1988 need 4 rounds of ideal round functions; on the few bits of a small data set
# a few more even out what the round function is not.
_ROUNDS = 8
_STREAM = int.from_bytes(b"order")


@dataclass(frozen=True)
class Order:
    """The endless order of the samples.

    Attributes:
        seed: the run's seed.
        samples: volumes in the data set.
        batch: volumes in the global batch of a step.
    """

    seed: int
    samples: int
    batch: int

    def indices(self, step: int) -> np.ndarray:
        """Dataset indices of the global batch of `step`, int64 (batch,)."""
        return self.at(self._positions(step))[1]

    def epochs(self, step: int) -> np.ndarray:
        """Epoch of each member of the global batch of `step`, int64 (batch,)."""
        return self._positions(step) // self.samples

    def epoch(self, step: int) -> int:
        """Epoch in which `step` begins."""
        return step * self.batch // self.samples

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Epochs and dataset indices, int64 (n,) each, at `positions` (n,) of the endless sequence."""
        epochs, places = np.divmod(np.asarray(positions, np.int64), self.samples)
        indices = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            indices[chosen] = _permute(places[chosen], self.samples, self.seed, int(epoch))
        return epochs, indices

    def _positions(self, step: int) -> np.ndarray:
        return np.arange(step * self.batch, (step + 1) * self.batch, dtype=np.int64)


@dataclass(frozen=True)
class Share:
    """What one rank takes of every global batch.

    Ranks take consecutive runs of it and cut them into consecutive micro-batches, so that their
    union is the global batch whatever the number of ranks.

    Attributes:
        order: of the global batches.
        rank, world_size: this rank, and how many there are.
        accumulate: micro-batches a step.
    """

    order: Order
    rank: int
    world_size: int
    accumulate: int

    @property
    def micro_batch(self) -> int:
        """Volumes in one micro-batch of this rank.

        Raises:
            FmctError: the global batch can't be shared out evenly.
        """
        parts = self.world_size * self.accumulate
        if self.order.batch % parts:
            raise FmctError(
                f"run.batch={self.order.batch} is not a multiple of ranks × engine.accumulate = "
                f"{self.world_size} × {self.accumulate}: change one of the three"
            )
        return self.order.batch // parts

    def positions(self, step: int, accumulation: int) -> np.ndarray:
        """Places in the endless sequence of micro-batch `accumulation` of `step`, int64 (micro_batch,)."""
        start = step * self.order.batch + (self.rank * self.accumulate + accumulation) * self.micro_batch
        return np.arange(start, start + self.micro_batch, dtype=np.int64)


def _permute(places: np.ndarray, samples: int, seed: int, epoch: int) -> np.ndarray:
    """Permute `places`, int64 (n,) in [0, samples), by the order of `epoch`.

    A balanced Feistel network permutes [0, 4^k) ⊇ [0, samples); values that land outside walk on
    along their cycle until they are inside (Black and Rogaway 2002, "Ciphers with Arbitrary
    Finite Domains", section 4: prefix and cycle-walking ciphers).
    """
    half = max(1, ((samples - 1).bit_length() + 1) // 2)
    keys = np.random.Philox(key=[seed, _STREAM], counter=[0, 0, 0, epoch]).random_raw(_ROUNDS)
    values = _feistel(places.astype(np.uint64), np.uint64(half), keys)
    outside = np.flatnonzero(values >= samples)
    while outside.size:
        values[outside] = _feistel(values[outside], np.uint64(half), keys)
        outside = outside[values[outside] >= samples]
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    """A permutation of [0, 4^half): `values` uint64 (n,), one uint64 key a round."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014, figure 15, variant 13), uint64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
