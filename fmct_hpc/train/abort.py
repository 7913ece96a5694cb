"""Ending all ranks when one fails: it sets a flag, which a thread of every other rank watches."""

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

from fmct_hpc.train.process_group import Place
from fmct_hpc.train.saver import LAST_WAIT_SECONDS
from shards.errors import FmctError, refusal

POLL_SECONDS = 0.5
"""Between two looks: a thousand ranks ask rank 0's store two thousand things a second, of the hundred
thousand that it answers."""

ANSWER_SECONDS = 5.0
"""How long a rank that fails stays for the others to see its flag, before its connections break; and rank 0
for them to need its store no more."""

END_SECONDS = LAST_WAIT_SECONDS + 10.0
"""For a rank that fails to end by itself: a checkpoint that is being written may come to its end."""

FOLLOW_SECONDS = 5.0
"""For the training's own thread to notice: that what it needs is lost, at its next batch; that the rank which
failed has ended, by a collective over broken connections (gloo; with NCCL it never does)."""

_STORE_SECONDS = 30.0
"""For rank 0's store to answer."""


class Failed(NamedTuple):
    """The first rank that failed."""

    rank: int
    code: int
    """Exit code, for all ranks."""


class AbortFlag:
    """Context manager around a rank's training: when one rank fails, all end, wherever they stand.

    The first rank that fails prints why. The others know then why their connections break, print nothing and
    end with the same exit code. A rank that does not end by itself in time is ended by its thread.
    """

    def __init__(self, name: str, place: Place, note: Callable[[Exception], None]) -> None:
        """Make the flag; no rank has set it.

        Args:
            name: the same on all ranks, and another each time.
            place: this rank's.
            note: puts on record why this rank fails; called before the others hear of it.
        """
        self.lost: Callable[[], Exception | None] = lambda: None
        """Asked twice a second: what makes this rank fail though its training does not know it yet."""
        self.last: Callable[[], None] = lambda: None
        """Called before this rank is ended by force: waits, not for ever, for what is better finished."""
        self._note = note
        self._rank = place.rank
        self._others = place.world_size - 1
        self._key = f"fmct/abort/{name}"
        self._store = _client() if self._others else None
        self._failed: Failed | None = None
        self._error: Exception | None = None
        self._ending = False
        self._said: set[str] = set()
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
        """Tell all ranks that this one ends by `error`, whose exit code becomes theirs (a defect's: 1).

        Raises SystemExit where another has failed first, which tells why.
        """
        self._ending = True
        first = self._set(error)
        if first.rank != self._rank:
            raise SystemExit(first.code)

    def _set(self, error: Exception) -> Failed:
        """Set the flag, if no rank has; return who has. Waits until the others have seen it."""
        self._note(error)
        told = error if isinstance(error, FmctError) else refusal(error)
        mine = Failed(self._rank, told.exit_code if told else 1)
        self._error, self._failed = told or error, self._failed or mine
        with suppress(RuntimeError):
            if self._store:
                self._failed = Failed(*json.loads(self._store.compare_set(self._key, "", json.dumps(mine))))
                if self._failed.rank == self._rank:
                    self._await("heard")
        return self._failed

    def _watch(self) -> None:
        while not self._look():
            if self._left.wait(POLL_SECONDS):
                return
        began = time.monotonic()
        while not self._ended() and time.monotonic() < began + self._patience():
            if self._left.wait(POLL_SECONDS):
                return
        if not self._left.wait(FOLLOW_SECONDS):
            self._end_by_force()

    def _look(self) -> bool:
        """Whether any rank has failed; a store that is gone, with rank 0, cannot be asked."""
        if not self._failed and (error := self.lost()) is not None:
            self._set(error)
        with suppress(RuntimeError):
            if self._store and not self._failed and self._store.check([self._key]):
                self._failed = Failed(*json.loads(self._store.get(self._key)))
                self._say("heard")
        return self._failed is not None

    def _ended(self) -> bool:
        """Whether the rank that failed has ended, but for its process; nobody asks the store after that."""
        try:
            ended = bool(self._store and self._store.check([f"{self._key}/ended"]))
            if ended:
                self._say("gone")
        except RuntimeError:
            return True
        return ended

    def _patience(self) -> float:
        assert self._failed
        return END_SECONDS if self._ending or self._failed.rank != self._rank else FOLLOW_SECONDS

    def _leave(self) -> None:
        """Rank 0 takes the store with it, so it leaves when no other needs it any more."""
        with suppress(RuntimeError):
            if self._failed and self._failed.rank == self._rank:
                self._say("ended")
            self._say("heard")
            self._say("gone")
            if self._rank == 0:
                self._await("gone")

    def _say(self, word: str) -> None:
        if self._store and word not in self._said:
            self._said.add(word)
            self._store.add(f"{self._key}/{word}", 1)

    def _await(self, word: str) -> None:
        """Wait until every rank, or every other one, has said it."""
        if self._store:
            deadline = time.monotonic() + ANSWER_SECONDS
            everyone = self._others + (word in self._said)
            while self._store.add(f"{self._key}/{word}", 0) < everyone and time.monotonic() < deadline:
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
            child.kill()  # readers end with this process, but for those that are still starting
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self._failed.code)


def _client() -> dist.TCPStore:
    """A connection of its own to the store by which the ranks have met (torch's env:// initialisation)."""
    return dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=_STORE_SECONDS),
        wait_for_workers=False,
    )
