"""Warns when a sign that a run does not learn has lasted."""

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fmct_hpc.config import TrainConfig
from fmct_hpc.train.learning_signs import FIGURES, SIGNS, Judged, Sign
from fmct_hpc.train.looks import FIRST_LOOKS, looks
from shards.errors import UnsoundError

log = logging.getLogger(__name__)

LEAST_VOLUMES = 8
"""Of a global batch, for its views to be judged: among fewer chance finds too many."""


class Lasting(NamedTuple):
    """A sign that lasted."""

    sign: Sign
    first: int
    """The first step that it is judged by."""
    last: int
    looks: int
    """That found it, one after another."""


def judged(rows: Iterable[Mapping[str, float]]) -> list[dict[str, float]]:
    """What a run's metrics.jsonl holds that signs are judged by: few rows, for ranks to send one another."""
    return [
        {"step": row["step"], **{name: row[name] for name in sorted(FIGURES.intersection(row))}}
        for row in rows
        if FIGURES.intersection(row)
    ]


class LearningAlarm:
    """Judges the figures of a run, in the order of its steps; all ranks have the same."""

    def __init__(self, config: TrainConfig, speaks: bool = True) -> None:
        """Ranks agree, so one of them speaks for all."""
        self._config, self._limits, steps = config, config.health, config.run.steps
        self._level = logging.WARNING if speaks else logging.DEBUG
        relates = any(part.relates_views for part in config.parts)
        of_views = relates and config.run.batch >= LEAST_VOLUMES
        self._signs = [sign for sign in SIGNS if of_views or not sign.of_views]
        self._window = max(1, config.health.lasting(steps) // max(1, config.health.interval(steps)))
        self._start: dict[str, list[float]] = {}
        self._recent: dict[str, deque[tuple[int, float]]] = {}
        self._least: dict[str, float] = {}
        self._showing: dict[str, Lasting] = {}

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Look for signs in the figures of `step`, counted from 1.

        Warns when one has lasted, and again each time that it has lasted as long. Raises UnsoundError where
        the configuration has a collapse stop the run.
        """
        for found in self._found(step, figures):
            if (found.looks - 1) % self._window:
                continue
            now = ", ".join(f"{name} {self._mean(name):.3g}" for name in found.sign.needs)
            what = f"step {step}: since step {found.first} {found.sign.what} ({now}); {found.sign.remedy}"
            if self._limits.collapse == "stop":
                raise UnsoundError(f"{what}; health.collapse=warn only warns")
            log.log(self._level, "%s", what)

    def go_on(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Take in the steps of a run's metrics.jsonl, or what `judged` leaves of them, without a word."""
        for row in rows:
            self._found(int(row["step"]), row)

    def lasted(self, rows: Iterable[Mapping[str, float]]) -> list[Lasting]:
        """All signs that lasted, by a run's metrics.jsonl, in the order in which they began."""
        ended: dict[tuple[str, int], Lasting] = {}
        for row in rows:
            ended |= {(found.sign.what, found.first): found for found in self._found(int(row["step"]), row)}
        return sorted(ended.values(), key=lambda found: (found.first, found.sign.what))

    def _found(self, step: int, figures: Mapping[str, float]) -> list[Lasting]:
        """The signs that `step` shows."""
        if not looks(self._config, step):  # the online probe is asked at regular checkpoints too
            return []
        known = FIGURES.intersection(figures)
        if step <= FIRST_LOOKS:
            for name in known:
                self._start.setdefault(name, []).append(figures[name])
            return []
        for name in known:
            self._recent.setdefault(name, deque(maxlen=self._window)).append((step, figures[name]))
        now = {name: self._mean(name) for name, last in self._recent.items() if len(last) == self._window}
        self._least |= {name: min(value, self._least.get(name, value)) for name, value in now.items()}
        judged = Judged(now, {n: sum(v) / len(v) for n, v in self._start.items()}, self._least)
        for sign in self._signs:
            if not (known.issuperset(sign.needs) and now.keys() >= set(sign.needs)):
                continue
            if not sign.shows(judged, self._limits):
                self._showing.pop(sign.what, None)
                continue
            first = self._recent[sign.needs[0]][0][0]
            before = self._showing.get(sign.what, Lasting(sign, first, step, 0))
            self._showing[sign.what] = before._replace(last=step, looks=before.looks + 1)
        return [found for found in self._showing.values() if found.last == step]

    def _mean(self, name: str) -> float:
        return sum(value for _, value in self._recent[name]) / len(self._recent[name])
