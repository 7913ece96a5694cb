"""Warns when a sign that a run does not learn persists."""

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fmct_hpc.config import TrainConfig
from fmct_hpc.train.evaluations import FIRST_EVALUATIONS, evaluates
from fmct_hpc.train.learning_signs import FIGURES, SIGNS, Sign, SignFigures
from shards.errors import UnhealthyRunError

log = logging.getLogger(__name__)

MIN_VOLUMES = 8
"""Smallest global batch whose views are judged: in a smaller one retrieval by chance is too high."""


class PersistentSign(NamedTuple):
    """A sign that persisted."""

    sign: Sign
    first: int
    """First step of the window in which it was first found."""
    last: int
    evaluations: int
    """Consecutive evaluations that found it."""


def judged(rows: Iterable[Mapping[str, float]]) -> list[dict[str, float]]:
    """The figures of metrics.jsonl that signs are judged by: few rows, small enough to broadcast."""
    return [
        {"step": row["step"], **{name: row[name] for name in sorted(FIGURES.intersection(row))}}
        for row in rows
        if FIGURES.intersection(row)
    ]


class LearningAlarm:
    """Judges the figures of a run, step by step; all ranks see the same figures."""

    def __init__(self, config: TrainConfig, warns: bool = True) -> None:
        """warns: whether this rank logs warnings; ranks agree, so one of them does."""
        self._config, self._limits, steps = config, config.health, config.run.steps
        self._level = logging.WARNING if warns else logging.DEBUG
        relates = any(part.relates_views for part in config.parts)
        of_views = relates and config.run.batch >= MIN_VOLUMES
        self._signs = [sign for sign in SIGNS if of_views or not sign.of_views]
        self._window = max(1, config.health.lasting(steps) // max(1, config.health.interval(steps)))
        self._start: dict[str, list[float]] = {}
        self._recent: dict[str, deque[tuple[int, float]]] = {}
        self._least: dict[str, float] = {}
        self._showing: dict[str, PersistentSign] = {}

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Look for signs in the figures of `step`, counted from 1.

        Warns when a sign has persisted for the window, and once per further window. Raises UnhealthyRunError
        with health.collapse=stop.
        """
        for shown in self._shown(step, figures):
            if (shown.evaluations - 1) % self._window:
                continue
            now = ", ".join(f"{name} {self._mean(name):.3g}" for name in shown.sign.needs)
            remedy = shown.sign.remedy(self._config)
            message = f"step {step}: since step {shown.first} {shown.sign.what} ({now}); {remedy}"
            if self._limits.collapse == "stop":
                raise UnhealthyRunError(f"{message}; health.collapse=warn only warns")
            log.log(self._level, "%s", message)

    def resume(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Replay the steps of a run's metrics.jsonl, or what `judged` keeps of them, without warnings."""
        for row in rows:
            self._shown(int(row["step"]), row)

    def lasted(self, rows: Iterable[Mapping[str, float]]) -> list[PersistentSign]:
        """All signs that persisted in a run's metrics.jsonl, by their first step."""
        lasting: dict[tuple[str, int], PersistentSign] = {}
        for row in rows:
            lasting |= {(sign.sign.what, sign.first): sign for sign in self._shown(int(row["step"]), row)}
        return sorted(lasting.values(), key=lambda sign: (sign.first, sign.sign.what))

    def _shown(self, step: int, figures: Mapping[str, float]) -> list[PersistentSign]:
        """The signs at `step`."""
        if not evaluates(self._config, step):  # the online probe also runs at regular checkpoints
            return []
        known = FIGURES.intersection(figures)
        if step <= FIRST_EVALUATIONS:
            for name in known:
                self._start.setdefault(name, []).append(figures[name])
            return []
        for name in known:
            self._recent.setdefault(name, deque(maxlen=self._window)).append((step, figures[name]))
        now = {name: self._mean(name) for name, last in self._recent.items() if len(last) == self._window}
        self._least |= {name: min(value, self._least.get(name, value)) for name, value in now.items()}
        current = SignFigures(now, {n: sum(v) / len(v) for n, v in self._start.items()}, self._least)
        for sign in self._signs:
            if not (known.issuperset(sign.needs) and now.keys() >= set(sign.needs)):
                continue
            if not sign.shows(current, self._limits):
                self._showing.pop(sign.what, None)
                continue
            first = self._recent[sign.needs[0]][0][0]
            before = self._showing.get(sign.what, PersistentSign(sign, first, step, 0))
            self._showing[sign.what] = before._replace(last=step, evaluations=before.evaluations + 1)
        return [sign for sign in self._showing.values() if sign.last == step]

    def _mean(self, name: str) -> float:
        return sum(value for _, value in self._recent[name]) / len(self._recent[name])
