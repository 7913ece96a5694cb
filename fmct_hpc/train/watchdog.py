"""Turning a hang into an error: where one rank waits for ever, all of them end and say where they were."""

import faulthandler
import logging
import os
import threading
from pathlib import Path
from types import TracebackType

from shards.atomic import create

log = logging.getLogger(__name__)

EXIT_HUNG = 70
"""EX_SOFTWARE of sysexits.h; unlike 75 it does not promise that the same command resumes the run."""


class Watchdog:
    """Context manager that ends this process, with its stacks on disk, when no step ends for `seconds`.

    Every rank has one. A collective that some rank never joins keeps the others waiting in it, so all of
    them end within moments of one another, and the one whose stack is elsewhere is the cause.
    """

    def __init__(self, run: Path, rank: int, seconds: float) -> None:
        self._file = run / "hangs" / f"rank-{rank:05d}.txt"
        self._rank = rank
        self._seconds = seconds
        self._alive = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._alive.set()
        self._thread.join()

    def alive(self) -> None:
        """Something ended; the time begins anew."""
        self._alive.set()

    def _watch(self) -> None:
        while self._alive.wait(self._seconds):
            if self._over.is_set():
                return
            self._alive.clear()
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.unlink(missing_ok=True)
        with os.fdopen(create(self._file), "w") as stream:
            faulthandler.dump_traceback(stream)
            stream.flush()
            os.fsync(stream.fileno())
        log.error(
            "rank %d: nothing ended for %g s (run.hang_minutes); where each thread was: %s",
            self._rank,
            self._seconds,
            self._file,
        )
        os._exit(EXIT_HUNG)
