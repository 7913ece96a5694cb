"""Speed and time left of a loop, and when its next log line is due."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

log = logging.getLogger(__name__)

Step = TypeVar("Step")

LINE_EVERY_SECONDS = 60.0
"""Seconds between log lines of a slow loop."""
FIRST_LINE_SECONDS = 10.0
"""Seconds before the first log line of a fit among many; shorter fits log nothing."""
RECENT_STEPS = 50
"""Steps in the median duration: the first steps compile, and steps with a save take longer."""


class Pace:
    """Tracks the speed of a loop of steps for its log lines."""

    def __init__(self, last: int, every: int, clock: Callable[[], float] = time.monotonic) -> None:
        """last: number of the loop's last step, counted from 1; every: steps between lines."""
        self._last, self._every, self._clock = last, every, clock
        self._seconds: deque[float] = deque(maxlen=RECENT_STEPS)
        self._before = self._logged = clock()

    def step(self, done: int) -> str | None:
        """Record a completed step; returns the time left if a line is due ("" if unknown), else None.

        A line is due at the first step, at every `every`-th, at the last, and after a minute without one.
        """
        now = self._clock()
        first = not self._seconds
        self._seconds.append(now - self._before)
        self._before = now
        over, overdue = done >= self._last, now - self._logged >= LINE_EVERY_SECONDS
        if not (first or over or overdue or done % self._every == 0):
            return None
        self._logged = now
        if first or over:  # the first step compiles, so its duration is not typical
            return ""
        from statistics import median

        return duration((self._last - done) * median(self._seconds))


def shown(
    steps: Iterable[Step], count: int, title: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Step]:
    """Iterate over `count` steps, with a log line (step, time left) after ten seconds, then every minute."""
    began = logged = clock()
    due = FIRST_LINE_SECONDS
    for done, step in enumerate(steps):
        now = clock()
        if done and now - logged >= due:
            left = duration((now - began) / done * (count - done))
            log.info("%s: step %d of %d, ETA %s", title, done, count, left)
            logged, due = now, LINE_EVERY_SECONDS
        yield step


def duration(seconds: float) -> str:
    """A duration as text: 3 h 12 min, 5 min, 40 s."""
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
