"""Health of a run: non-finite steps, and signs that the features collapse.

Both are judged by figures that are reduced over all ranks, so every rank makes the same decision.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fmct_hpc.config import TrainConfig
from fmct_hpc.objective.part import Sign
from fmct_hpc.objective.spread import remedy
from shards.errors import UnhealthyRunError

log = logging.getLogger(__name__)


MIN_VOLUMES = 4
"""Smallest micro-batch over all ranks whose features are compared: two or three may be similar by chance."""
NEARLY_EQUAL = "the features of all volumes are nearly equal"


class Alarm(NamedTuple):
    """A sign of collapse that persisted."""

    sign: str
    first: int
    """First step with the sign."""
    last: int


class Health:
    """Checks the figures of each step."""

    def __init__(self, config: TrainConfig, ranks: int = 1, warns: bool = True) -> None:
        """warns: whether this rank logs warnings; ranks agree, so one of them does."""
        self._limits = config.health
        self._level = logging.WARNING if warns else logging.DEBUG
        self.patience = config.health.lasting(config.run.steps)
        """Steps that a sign must persist."""
        self._parts = config.parts
        self._remedy = remedy(config)
        self._several = config.run.batch // config.accumulation(ranks) >= MIN_VOLUMES
        self.lasting: dict[str, int] = {}
        """Number of latest steps in which each sign was present."""
        self._skipped = 0

    def skip(self, step: int, source: str) -> None:
        """Count a non-finite step, numbered from 1, which updated nothing.

        Raises UnhealthyRunError with health.not_finite=stop, or after more than health.max_skipped steps.
        """
        message = f"step {step}: loss or gradient is not finite, nothing was updated; {source}"
        if self._limits.not_finite == "stop":
            raise UnhealthyRunError(
                f"{message}; check these volumes, lower optim.base_lr, or set health.not_finite=skip"
            )
        self._skipped += 1
        if self._skipped > self._limits.max_skipped:
            raise UnhealthyRunError(
                f"{message}; more skipped steps than health.max_skipped={self._limits.max_skipped}"
            )
        log.log(
            self._level, "%s; skipped, %d of at most %d", message, self._skipped, self._limits.max_skipped
        )

    def step(self, step: int, figures: dict[str, float]) -> None:
        """Look for collapse in the figures of step `step`; a sign must persist for `patience` steps.

        Raises UnhealthyRunError with health.collapse=stop.
        """
        signs = self._signs(figures)
        self.lasting = _counted(self.lasting, signs)
        for sign in signs:
            if sign.shows and self.lasting[sign.what] % self.patience == 0:
                self._alarm(step, sign)

    def lasted(self, rows: Iterable[Mapping[str, float]]) -> dict[str, int]:
        """`lasting` after the steps of a run's metrics.jsonl, with which an attempt resumes."""
        lasting: dict[str, int] = {}
        for row in rows:
            if not row.get("skipped"):
                lasting = _counted(lasting, self._signs(row))
        return lasting

    def alarms(self, rows: Iterable[Mapping[str, float]]) -> list[Alarm]:
        """The signs that persisted for `patience` steps in a run's metrics.jsonl, by their first step."""
        ended: list[Alarm] = []
        showing: dict[str, Alarm] = {}
        for row in rows:
            if row.get("skipped"):
                continue
            step = int(row["step"])
            signs = {sign.what for sign in self._signs(row) if sign.shows}
            ended += [showing.pop(sign) for sign in set(showing) - signs]
            for sign in signs:
                showing[sign] = showing.get(sign, Alarm(sign, step, step))._replace(last=step)
        lasting = [a for a in (*ended, *showing.values()) if a.last - a.first + 1 >= self.patience]
        return sorted(lasting, key=lambda alarm: (alarm.first, alarm.sign))

    def _alarm(self, step: int, sign: Sign) -> None:
        message = f"step {step}: for {self.lasting[sign.what]} steps {sign.what}: the features collapse"
        if self._limits.collapse == "stop":
            raise UnhealthyRunError(f"{message}; restart with {sign.remedy}; health.collapse=warn only warns")
        log.log(self._level, "%s; if it lasts, restart with %s", message, sign.remedy)

    def _signs(self, figures: Mapping[str, float]) -> list[Sign]:
        """The signs whose figures this objective has."""
        signs = [sign for part in self._parts for sign in part.signs(figures, self._several)]
        if "feature_deviation" in figures and self._several:
            equal = figures["feature_deviation"] < self._limits.min_feature_deviation
            signs.append(Sign(NEARLY_EQUAL, equal, self._remedy))
        return signs


def _counted(lasting: Mapping[str, int], signs: Iterable[Sign]) -> dict[str, int]:
    return {sign.what: lasting.get(sign.what, 0) + 1 if sign.shows else 0 for sign in signs}
