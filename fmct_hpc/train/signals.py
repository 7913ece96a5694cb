"""Stopping in time: the first signal, or a time limit coming near, asks for a save at the end of the step.

A later signal aborts at once.
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
"""EX_TEMPFAIL of sysexits.h: all is saved, the same command resumes."""

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

SAME_REQUEST_SECONDS = 2.0
"""A scheduler signals a job's processes, and the launcher among them passes it on: one request, twice."""


class StopRequest:
    """Whether this process was asked to stop."""

    def __init__(self, end: float) -> None:
        """end: when the process will be ended, in seconds of `time.time`; infinity if never."""
        self._end = end
        self._first: float | None = None
        self.reason: str | None = None
        """The signal that came, or "time limit"; None where this process was not asked."""

    def __call__(self, needed: float) -> bool:
        """Whether a signal came, or no more than `needed` seconds are left."""
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
    """When this process has to be over, in seconds of `time.time`: `minutes` from now, or the end of its
    job (`RunningJob.end`), whichever is first; infinity with neither.
    """
    told = time.time() + 60 * minutes if minutes is not None else math.inf
    end = RunningJob.current().end
    return told if end is None or stale_job_end() else min(told, end.seconds)


def stale_job_end() -> str | None:
    """In words, that the end of the job is no time to come, so that it can't be this process's; else None.

    A shell that was opened in a job keeps it when the job has ended, and a job may be given more time.
    """
    end = RunningJob.current().end
    if end is None:
        return None
    if math.isnan(end.seconds):
        return f"{end.variable}={end.text!r} is no time: it is not taken for the end of this run"
    if end.seconds > time.time():
        return None
    return (
        f"{end.variable} was {(time.time() - end.seconds) / 60:.0f} minutes ago: this process outlives the "
        "job that its variables are of, so that is not taken for the end of this run (unset it, or set "
        "run.minutes)"
    )


@contextmanager
def stop_on_signal(end: float = math.inf) -> Iterator[StopRequest]:
    """Catch the stopping signals; on leaving, earlier handlers are back. end: see `time_limit`."""
    request = StopRequest(end)
    previous = {number: signal.signal(number, request.handle) for number in STOPPING}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
