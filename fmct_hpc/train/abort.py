"""End all ranks when one fails: it sets a flag, which a thread of every other rank polls."""

import json
import logging
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import NamedTuple

import torch.distributed as dist

from fmct_hpc.train.process_group import RankInfo
from fmct_hpc.train.saver import LAST_WAIT_SECONDS
from shards.errors import FmctError, refusal

POLL_SECONDS = 0.5
"""Polling interval: a thousand ranks send rank 0's store two thousand requests per second, of the hundred
thousand that it can answer."""

ANSWER_SECONDS = 5.0
"""How long a failing rank keeps its connections for the others to see its flag, and rank 0 its store."""

END_SECONDS = LAST_WAIT_SECONDS + 10.0
"""Time for a failing rank to exit normally; it may complete a checkpoint in progress."""

FOLLOW_SECONDS = 5.0
"""Time for the training thread to notice a lost reader, at its next batch, or the exit of the failed rank, by
a collective over broken connections (gloo; never with NCCL)."""

_STORE_SECONDS = 30.0
"""Timeout of requests to rank 0's store."""


class Failed(NamedTuple):
    """The first rank that failed."""

    rank: int
    code: int
    """Exit code of all ranks."""


class AbortFlag:
    """Context manager around a rank's training: when one rank fails, all ranks end.

    The first rank that fails prints the error. The others print nothing and end with the same exit code. A
    rank that does not end in time is ended by its polling thread.
    """

    def __init__(self, name: str, rank_info: RankInfo, note: Callable[[Exception], None]) -> None:
        """Create the flag, unset.

        Args:
            name: the same on all ranks, different for each attempt.
            rank_info: this rank's.
            note: records this rank's error; called before the other ranks are notified.
        """
        self.lost: Callable[[], Exception | None] = lambda: None
        """Polled twice per second: an error of this rank that its training thread has not noticed yet."""
        self.last: Callable[[], None] = lambda: None
        """Called before this rank is ended by force: waits, for a limited time, for work in progress."""
        self._note = note
        self._rank = rank_info.rank
        self._others = rank_info.world_size - 1
        self._key = f"fmct/abort/{name}"
        self._store = _client() if self._others else None
        self._failed: Failed | None = None
        self._error: Exception | None = None
        self._ending = False
        self._sent: set[str] = set()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="abort flag", daemon=True)

    def __enter__(self) -> "AbortFlag":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join(POLL_SECONDS)
        self._leave()

    def fail(self, error: Exception) -> None:
        """Notify all ranks that this one ends by `error`, whose exit code they take (a defect's: 1).

        Raises SystemExit where another rank has failed first; that one prints the error.
        """
        self._ending = True
        first = self._set(error)
        if first.rank != self._rank:
            raise SystemExit(first.code)

    def _set(self, error: Exception) -> Failed:
        """Set the flag unless it is set; return the rank that set it. Waits until the others have seen it."""
        self._note(error)
        known = error if isinstance(error, FmctError) else refusal(error)
        mine = Failed(self._rank, known.exit_code if known else 1)
        self._error, self._failed = known or error, self._failed or mine
        with suppress(RuntimeError):
            if self._store:
                self._failed = Failed(*json.loads(self._store.compare_set(self._key, "", json.dumps(mine))))
                if self._failed.rank == self._rank:
                    self._await("heard")
        return self._failed

    def _watch(self) -> None:
        while not self._check():
            if self._left.wait(POLL_SECONDS):
                return
        began = time.monotonic()
        while not self._failed_rank_ended() and time.monotonic() < began + self._patience():
            if self._left.wait(POLL_SECONDS):
                return
        if not self._left.wait(FOLLOW_SECONDS):
            self._end_by_force()

    def _check(self) -> bool:
        """Whether any rank has failed; without an answer where rank 0's store is gone."""
        if not self._failed and (error := self.lost()) is not None:
            self._set(error)
        with suppress(RuntimeError):
            if self._store and not self._failed and self._store.check([self._key]):
                self._failed = Failed(*json.loads(self._store.get(self._key)))
                self._send("heard")
        return self._failed is not None

    def _failed_rank_ended(self) -> bool:
        """Whether the failed rank has finished, except for its process; the store is not used after that."""
        try:
            ended = bool(self._store and self._store.check([f"{self._key}/ended"]))
            if ended:
                self._send("gone")
        except RuntimeError:
            return True
        return ended

    def _patience(self) -> float:
        assert self._failed
        return END_SECONDS if self._ending or self._failed.rank != self._rank else FOLLOW_SECONDS

    def _leave(self) -> None:
        """Leave; rank 0, which hosts the store, waits until no other rank needs it."""
        with suppress(RuntimeError):
            if self._failed and self._failed.rank == self._rank:
                self._send("ended")
            self._send("heard")
            self._send("gone")
            if self._rank == 0:
                self._await("gone")

    def _send(self, event: str) -> None:
        if self._store and event not in self._sent:
            self._sent.add(event)
            self._store.add(f"{self._key}/{event}", 1)

    def _await(self, event: str) -> None:
        """Wait until all ranks, or all others, have sent the event."""
        if self._store:
            deadline = time.monotonic() + ANSWER_SECONDS
            everyone = self._others + (event in self._sent)
            while self._store.add(f"{self._key}/{event}", 0) < everyone and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS / 10)

    def _end_by_force(self) -> None:
        assert self._failed
        if self._error and self._failed.rank == self._rank:
            if isinstance(self._error, FmctError):
                print(f"fmct: {self._error}", file=sys.stderr)
            else:
                traceback.print_exception(self._error)
        self.last()
        self._leave()
        for child in multiprocessing.active_children():
            child.kill()  # readers end with this process, except those that are still starting
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self._failed.code)


def _client() -> dist.TCPStore:
    """A separate connection to the rendezvous store (torch's env:// initialisation)."""
    return dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=_STORE_SECONDS),
        wait_for_workers=False,
    )
