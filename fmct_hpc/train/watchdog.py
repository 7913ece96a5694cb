"""Turn a hang into an error: all ranks end and write their stacks."""

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
    """Context manager that ends this process, after writing its stacks, when no step ends for `seconds`.

    Every rank has one. If a rank never joins a collective, the others wait in it, so all of them end at about
    the same time; the rank whose stack is elsewhere is the cause.
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
        """Restart the timeout."""
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
            "rank %d: no progress for %g s (run.hang_minutes); stacks of all threads: %s",
            self._rank,
            self._seconds,
            self._file,
        )
        os._exit(EXIT_HUNG)
