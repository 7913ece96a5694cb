"""Stop requests: the first signal, or an approaching time limit, requests a save at the end of the step.

A later signal aborts immediately.
"""

import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from shards.job import RunningJob

log = logging.getLogger(__name__)

EXIT_SAVED = 75
"""EX_TEMPFAIL of sysexits.h: the state is saved, the same command resumes."""

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

SAME_REQUEST_SECONDS = 2.0
"""Signals within this time are one request: a scheduler signals all processes of a job, and the launcher
among them forwards the signal."""


class StopRequest:
    """Whether this process should stop."""

    def __init__(self, end: float) -> None:
        """end: time limit of the process, in seconds of `time.time`; infinity if none."""
        self._end = end
        self._first: float | None = None
        self.reason: str | None = None
        """The received signal, or "time limit"; None without a request."""

    def __call__(self, needed: float) -> bool:
        """Whether a signal was received, or no more than `needed` seconds are left."""
        if self.reason is None and time.time() + needed > self._end:
            self.reason = "time limit"
        return self.reason is not None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self.reason = signal.Signals(number).name
            log.warning("%s: saving at the end of this step", signal.Signals(number).name)
        elif now - self._first > SAME_REQUEST_SECONDS:
            log.warning("%s again: aborting without a save", signal.Signals(number).name)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def time_limit(minutes: float | None) -> float:
    """Time limit of this process, in seconds of `time.time`: `minutes` from now, or the end of its job
    (`RunningJob.end`), whichever is first; infinity with neither.
    """
    limit = time.time() + 60 * minutes if minutes is not None else math.inf
    end = RunningJob.current().end
    return limit if end is None or stale_job_end() else min(limit, end.seconds)


def stale_job_end() -> str | None:
    """A warning if the job's end is not in the future, so cannot be this process's; else None.

    A shell opened in a job keeps the job's variables after the job has ended, and a job may be extended.
    """
    end = RunningJob.current().end
    if end is None:
        return None
    if math.isnan(end.seconds):
        return f"{end.variable}={end.text!r} is not a time and is ignored"
    if end.seconds > time.time():
        return None
    return (
        f"{end.variable} was {(time.time() - end.seconds) / 60:.0f} minutes ago: this process outlives that "
        "job, so the variable is ignored (unset it, or set run.minutes)"
    )


@contextmanager
def stop_on_signal(end: float = math.inf) -> Iterator[StopRequest]:
    """Catch the stop signals; restores earlier handlers on exit. end: see `time_limit`."""
    request = StopRequest(end)
    previous = {number: signal.signal(number, request.handle) for number in STOPPING}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
