"""Is a run sound? What to do about a step that is not finite, and signs that the features collapse.

Both are judged by figures that all ranks have agreed on, so every rank comes to the same decision.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fmct_hpc.config import TrainConfig
from fmct_hpc.objective.part import Sign
from fmct_hpc.objective.spread import REMEDY
from shards.errors import UnsoundError

log = logging.getLogger(__name__)


LEAST_VOLUMES = 4
"""Of a micro-batch over all ranks, for features to be compared: two or three sound ones may be alike."""
ALIKE = "the features of all volumes are nearly equal"


class Alarm(NamedTuple):
    """A sign of collapse that lasted."""

    sign: str
    first: int
    """The first step that showed it."""
    last: int


class Health:
    """Watches the figures of each step."""

    def __init__(self, config: TrainConfig, ranks: int = 1, speaks: bool = True) -> None:
        """Ranks agree, so one of them speaks for all."""
        self._limits = config.health
        self._level = logging.WARNING if speaks else logging.DEBUG
        self.patience = config.health.lasting(config.run.steps)
        """For how many steps a sign must last."""
        self._parts = config.parts
        self._several = config.run.batch // config.accumulation(ranks) >= LEAST_VOLUMES
        self.lasting: dict[str, int] = {}
        """For how many steps, the last ones, each sign has shown."""
        self._skipped = 0

    def skip(self, step: int, guilty: str) -> None:
        """Take note of a step, counted from 1, that was not finite and changed nothing.

        Raises UnsoundError where the configuration has such a step stop the run, or its budget is spent.
        """
        what = f"step {step}: loss or gradient is not finite, nothing was updated; {guilty}"
        if self._limits.not_finite == "stop":
            raise UnsoundError(
                f"{what}; look at these volumes, lower optim.base_lr, or set health.not_finite=skip"
            )
        self._skipped += 1
        if self._skipped > self._limits.max_skipped:
            raise UnsoundError(f"{what}; more steps than health.max_skipped={self._limits.max_skipped}")
        log.log(self._level, "%s; skipped, %d of at most %d", what, self._skipped, self._limits.max_skipped)

    def step(self, step: int, figures: dict[str, float]) -> None:
        """Look for collapse in the figures of step `step`; a sign must last for health.patience steps,
        or a quarter of the run's, if these are fewer.

        Raises UnsoundError where the configuration has a collapse stop the run.
        """
        signs = self._signs(figures)
        self.lasting = _counted(self.lasting, signs)
        for sign in signs:
            if sign.shows and self.lasting[sign.what] % self.patience == 0:
                self._alarm(step, sign)

    def lasted(self, rows: Iterable[Mapping[str, float]]) -> dict[str, int]:
        """What `lasting` was behind the steps of a run's metrics.jsonl: an attempt goes on with it."""
        lasting: dict[str, int] = {}
        for row in rows:
            if not row.get("skipped"):
                lasting = _counted(lasting, self._signs(row))
        return lasting

    def alarms(self, rows: Iterable[Mapping[str, float]]) -> list[Alarm]:
        """The signs that lasted as long as `step` waits for, by a run's metrics.jsonl, as they began."""
        found: list[Alarm] = []
        showing: dict[str, Alarm] = {}
        for row in rows:
            if row.get("skipped"):
                continue
            step = int(row["step"])
            signs = {sign.what for sign in self._signs(row) if sign.shows}
            found += [showing.pop(sign) for sign in set(showing) - signs]
            for sign in signs:
                showing[sign] = showing.get(sign, Alarm(sign, step, step))._replace(last=step)
        lasting = [a for a in (*found, *showing.values()) if a.last - a.first + 1 >= self.patience]
        return sorted(lasting, key=lambda alarm: (alarm.first, alarm.sign))

    def _alarm(self, step: int, sign: Sign) -> None:
        what = f"step {step}: for {self.lasting[sign.what]} steps {sign.what}: the features collapse"
        if self._limits.collapse == "stop":
            raise UnsoundError(f"{what}; begin again with {sign.remedy}; health.collapse=warn only warns")
        log.log(self._level, "%s", what)

    def _signs(self, figures: Mapping[str, float]) -> list[Sign]:
        """Those whose figures this objective has."""
        signs = [sign for part in self._parts for sign in part.signs(figures, self._several)]
        if "feature_deviation" in figures and self._several:
            alike = figures["feature_deviation"] < self._limits.min_feature_deviation
            signs.append(Sign(ALIKE, alike, REMEDY))
        return signs


def _counted(lasting: Mapping[str, int], signs: Iterable[Sign]) -> dict[str, int]:
    return {sign.what: lasting.get(sign.what, 0) + 1 if sign.shows else 0 for sign in signs}
