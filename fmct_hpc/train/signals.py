"""Stopping on a signal: the first asks for a save at the end of the step, a later one aborts at once."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

EXIT_SAVED = 75
"""EX_TEMPFAIL of sysexits.h: all is saved, the same command goes on."""

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

SAME_REQUEST_SECONDS = 2.0
"""A scheduler signals a job's processes, and the launcher among them passes it on: one request, twice."""


class StopRequest:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self._first: float | None = None

    def __bool__(self) -> bool:
        return self._first is not None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        now = time.monotonic()
        if self._first is None:
            self._first = now
            log.warning("%s: saving at the end of this step", signal.Signals(number).name)
        elif now - self._first > SAME_REQUEST_SECONDS:
            log.warning("%s again: aborting without a save", signal.Signals(number).name)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Catch the stopping signals; on leaving, earlier handlers are back."""
    request = StopRequest()
    previous = {number: signal.signal(number, request.handle) for number in STOPPING}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
