"""The volumes in the global batch of a step: a pure function of the seed and the step.

The samples of epoch 0, then of epoch 1, and so on form one endless sequence; the global batch of
step s is its slice [s·batch, (s+1)·batch). A batch may span two epochs, so that every sample occurs
exactly once per epoch and none is dropped.

An epoch permutes the shards, then the volumes within windows of a few shards, and divides the result
into lanes of equal length, one per slot of the global batch or per few adjacent slots: a slot reads
along its lane. A rank has adjacent slots, so it reads few shards at a time, which few other ranks
read, while a batch has volumes of many shards. Memory is one number per shard; permutations are
computed per entry. docs/architecture.md has measurements.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from shards.dataset import Dataset
from shards.errors import FmctError

MIXED_SHARDS = 256
"""Lanes times shards in a window: the number of shards that are mixed in batches at a time."""

# Luby and Rackoff 1988 prove 4 rounds with ideal round functions; more compensate for a round function that
# is not ideal on the few bits of a small dataset.
_ROUNDS = 8
_STREAM = int.from_bytes(b"order")
_SUBSTITUTE_STREAM = int.from_bytes(b"instead")


@dataclass(frozen=True)
class Order:
    """The endless order of the samples.

    Attributes:
        seed: the run's seed.
        shards: volumes of each shard, in the dataset's order.
        batch: volumes in the global batch of a step.
    """

    seed: int
    shards: tuple[int, ...]
    batch: int

    @classmethod
    def of(cls, dataset: Dataset, seed: int, batch: int) -> "Order":
        """The order of a dataset's volumes."""
        return cls(seed, tuple(shard.volumes for shard in dataset.info.shards), batch)

    @property
    def samples(self) -> int:
        """Volumes in an epoch."""
        return sum(self.shards)

    def indices(self, step: int) -> np.ndarray:
        """Dataset indices of the global batch of `step`, int64 (batch,)."""
        return self.at(self._positions(step))[1]

    def epochs(self, step: int) -> np.ndarray:
        """Epoch of each member of the global batch of `step`, int64 (batch,)."""
        return self._positions(step) // self.samples

    def epoch(self, step: int) -> int:
        """Epoch in which `step` starts."""
        return step * self.batch // self.samples

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Epochs and dataset indices, int64 (n,) each, at `positions` (n,) of the endless sequence."""
        epochs, offsets = np.divmod(np.asarray(positions, np.int64), self.samples)
        indices = np.empty_like(offsets)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            ranks = self._along_lanes(offsets[chosen], int(epoch))
            indices[chosen] = _layout(self.seed, self.shards, self._window, int(epoch)).permute(ranks)
        return epochs, indices

    def substitute(self, position: int, attempt: int) -> int:
        """Dataset index of the volume that replaces a damaged one at `position`.

        `attempt` counts from 0, because the substitute may be damaged too.
        """
        philox = np.random.Philox(key=[self.seed, _SUBSTITUTE_STREAM], counter=[0, 0, attempt, position])
        return int(np.random.Generator(philox).integers(self.samples))

    @property
    def steps_per_window(self) -> int:
        """Approximate number of steps in which a lane reads one window of shards."""
        window = self._window * self.samples / len(self.shards)
        return max(1, round(window * self._lanes / self.batch))

    @property
    def _lanes(self) -> int:
        return min(self.batch, MIXED_SHARDS)

    @property
    def _window(self) -> int:
        """Shards in a window."""
        return -(-MIXED_SHARDS // self._lanes)

    def _along_lanes(self, offsets: np.ndarray, epoch: int) -> np.ndarray:
        """Ranks in the epoch's permutation, int64 (n,), of its `offsets` (n,) in time.

        Lanes are consecutive in the permutation. A lane belongs to the slots [low, high) of every batch,
        which take its volumes in the order of time.
        """
        first = epoch * self.samples % self.batch  # the slot in which the epoch starts
        now = first + offsets
        lane = now % self.batch * self._lanes // self.batch
        low, high = (-(-bound * self.batch // self._lanes) for bound in (lane, lane + 1))

        def below(slot: np.ndarray, time: int | np.ndarray) -> np.ndarray:
            """Number of positions before `time` with a slot below `slot`."""
            counted: np.ndarray = time // self.batch * slot + np.minimum(time % self.batch, slot)
            return counted

        before = below(low, first + self.samples) - below(low, first)
        in_lane = below(high, now) - below(low, now) - (below(high, first) - below(low, first))
        return before + in_lane

    def _positions(self, step: int) -> np.ndarray:
        return np.arange(step * self.batch, (step + 1) * self.batch, dtype=np.int64)


@dataclass(frozen=True)
class Share:
    """One rank's share of every global batch.

    Ranks take consecutive runs of it and divide them into consecutive micro-batches, so their union is the
    global batch for any number of ranks.

    Attributes:
        order: of the global batches.
        rank, world_size: this rank, and the number of ranks.
        accumulate: micro-batches per step.
    """

    order: Order
    rank: int
    world_size: int
    accumulate: int

    @property
    def micro_batch(self) -> int:
        """Volumes in one micro-batch of this rank.

        Raises:
            FmctError: the global batch cannot be divided evenly.
        """
        parts = self.world_size * self.accumulate
        if self.order.batch % parts:
            raise FmctError(
                f"run.batch={self.order.batch} is not a multiple of ranks × engine.accumulate = "
                f"{self.world_size} × {self.accumulate}: change one of the three"
            )
        return self.order.batch // parts

    def positions(self, step: int, accumulation: int) -> np.ndarray:
        """Positions in the endless sequence of micro-batch `accumulation` of `step`, int64 (micro_batch,)."""
        start = step * self.order.batch + (self.rank * self.accumulate + accumulation) * self.micro_batch
        return np.arange(start, start + self.micro_batch, dtype=np.int64)


class _Layout(NamedTuple):
    """An epoch's shards, permuted."""

    firsts: np.ndarray
    """int64 (shards,): dataset index of the first volume of the shards, in permuted order."""
    starts: np.ndarray
    """int64 (shards + 1,): their first ranks in the epoch, and the number of samples."""
    windows: np.ndarray
    """int64 (windows + 1,): the first ranks of the windows, and the number of samples."""
    keys: np.ndarray
    """uint64 (_ROUNDS,)."""

    def permute(self, ranks: np.ndarray) -> np.ndarray:
        """Dataset indices at `ranks`, int64 (n,) in [0, samples)."""
        window = np.searchsorted(self.windows, ranks, "right") - 1
        start = self.windows[window]
        keys = _mix(self.keys[:, None] ^ _mix(window.astype(np.uint64) + np.uint64(1)))
        ranks = start + _permute(ranks - start, self.windows[window + 1] - start, keys)
        shard = np.searchsorted(self.starts, ranks, "right") - 1
        indices: np.ndarray = self.firsts[shard] + ranks - self.starts[shard]
        return indices


@lru_cache(maxsize=4)
def _layout(seed: int, shards: tuple[int, ...], window: int, epoch: int) -> _Layout:
    sizes = np.array(shards, np.int64)
    keys = np.random.Philox(key=[seed, _STREAM], counter=[0, 0, 0, epoch]).random_raw(2 * _ROUNDS)
    numbers = np.arange(len(sizes))
    permuted = _permute(numbers, np.full_like(numbers, len(sizes)), keys[:_ROUNDS, None])
    starts = np.concatenate([[0], np.cumsum(sizes[permuted])])
    windows = np.append(starts[:-1:window], starts[-1])
    return _Layout((np.cumsum(sizes) - sizes)[permuted], starts, np.unique(windows), keys[_ROUNDS:])


def _permute(numbers: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Permute each of `numbers`, int64 (n,), within its [0, size) of `sizes` (n,); int64 (n,).

    A balanced Feistel network permutes [0, 4^k) ⊇ [0, size); values outside are permuted
    again until they are inside (cycle walking: Black and Rogaway 2002, "Ciphers with Arbitrary
    Finite Domains", section 4). `keys`, uint64 (rounds, n or 1).
    """
    bits = np.frexp((sizes - 1).astype(np.float64))[1]
    half = np.maximum(1, (bits + 1) // 2).astype(np.uint64)
    keys = np.broadcast_to(keys, (len(keys), len(numbers)))
    values = _feistel(numbers.astype(np.uint64), half, keys)
    outside = np.flatnonzero(values >= sizes)
    while outside.size:
        values[outside] = _feistel(values[outside], half[outside], keys[:, outside])
        outside = outside[values[outside] >= sizes[outside]]
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """A permutation of [0, 4^half) for each of `values` uint64 (n,); `keys` uint64 (rounds, n)."""
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
