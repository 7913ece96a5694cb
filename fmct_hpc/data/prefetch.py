"""Prefetching shards: a thread copies those that a rank reads next to the node's cache."""

import logging
import threading

import numpy as np

from fmct_hpc.data.cache import CachedDataset
from fmct_hpc.data.order import Share
from shards.errors import FmctError

log = logging.getLogger(__name__)

END_SECONDS = 5.0
"""Time for an aborted copy to stop; a thread that hangs in its file system is abandoned."""


class Prefetcher:
    """Copies the shards of a rank's share of the order, a bounded number of steps ahead of the training.

    A copy that fails is logged once, and its shard is read from the dataset, where readers report errors.
    """

    def __init__(self, dataset: CachedDataset, share: Share, start_step: int):
        self._dataset = dataset
        self._share = share
        self._step = start_step
        self._closed = False
        self._moved = threading.Condition()
        self._failed: set[int] = set()
        self._thread = threading.Thread(target=self._run, name="shard cache", daemon=True)
        self._thread.start()

    def advance(self, step: int) -> None:
        """Report that the training has reached `step`."""
        with self._moved:
            self._step = step
            self._moved.notify()

    def close(self) -> None:
        """Stop, and abort a copy in progress."""
        with self._moved:
            self._closed = True
            self._moved.notify()
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        step = self._step
        while True:
            for number in self.shards_at(step):
                if self._closed:
                    return
                if number not in self._failed:
                    self._fill(number)
            step = self._next(step + 1)

    def _next(self, step: int) -> int:
        """Wait until `step` is near enough; returns it, or the training's step if that is later."""
        steps = self._share.order.steps_per_window
        with self._moved:
            self._moved.wait_for(lambda: self._closed or step <= self._step + steps)
            return max(step, self._step)

    def shards_at(self, step: int) -> list[int]:
        """Numbers of the shards that this rank reads in `step`."""
        share = self._share
        positions = np.concatenate([share.positions(step, a) for a in range(share.accumulate)])
        indices = share.order.at(positions)[1]
        numbers: list[int] = np.unique(self._dataset.shard_of[indices]).tolist()
        return numbers

    def _fill(self, number: int) -> None:
        try:
            self._dataset.fill(number, stop=lambda: self._closed)
        except (FmctError, OSError) as error:
            self._failed.add(number)
            log.warning("shard not copied to data.cache: %s", error)
