"""How fast a loop goes, when it will be done, and when the next line about it is due."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

log = logging.getLogger(__name__)

Step = TypeVar("Step")

LINE_EVERY_SECONDS = 60.0
"""Of a loop whose steps are slow: no terminal or log is silent for longer."""
FIRST_LINE_SECONDS = 10.0
"""Of a fit among many: shorter ones have no line of their own."""
RECENT_STEPS = 50
"""Of which the median is taken: the first steps compile, and those that save take longer."""


class Pace:
    """Of a loop of steps, for its log lines."""

    def __init__(self, last: int, every: int, clock: Callable[[], float] = time.monotonic) -> None:
        """last: the loop's last step, from 1; every: steps between lines."""
        self._last, self._every, self._clock = last, every, clock
        self._seconds: deque[float] = deque(maxlen=RECENT_STEPS)
        self._before = self._said = clock()

    def step(self, done: int) -> str | None:
        """Note that a step is done; where a line is due, the time left ("" where it is not known), else None.

        A line is due at the first step seen, at every `every`-th, at the last, and after a minute.
        """
        now = self._clock()
        first = not self._seconds
        self._seconds.append(now - self._before)
        self._before = now
        over, silent = done >= self._last, now - self._said >= LINE_EVERY_SECONDS
        if not (first or over or silent or done % self._every == 0):
            return None
        self._said = now
        if first or over:  # one step, which compiles, says nothing of the others
            return ""
        from statistics import median

        return duration((self._last - done) * median(self._seconds))


def shown(
    steps: Iterable[Step], count: int, title: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Step]:
    """`steps`, `count` in number, with a log line after ten seconds, then one a minute: step, time left."""
    began = said = clock()
    due = FIRST_LINE_SECONDS
    for done, step in enumerate(steps):
        now = clock()
        if done and now - said >= due:
            left = duration((now - began) / done * (count - done))
            log.info("%s: step %d of %d, ETA %s", title, done, count, left)
            said, due = now, LINE_EVERY_SECONDS
        yield step


def duration(seconds: float) -> str:
    """A time span as it is shown: 3 h 12 min, 5 min, 40 s."""
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
