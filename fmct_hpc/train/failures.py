"""What failures cost a run, and how often to save (Daly 2006)."""

import math

RESTART_SECONDS = 300.0
"""From a failure to the first new step: the queue, imports, reading and checking the checkpoint. A guess;
`fmct launch status` shows the starts of a run."""


def young_interval(save_seconds: float, failure_seconds: float) -> float:
    """Seconds of work between saves that lose the least time, to first order: sqrt(2 δ M) (Young 1974)."""
    return math.sqrt(2 * save_seconds * failure_seconds)


def daly_interval(save_seconds: float, failure_seconds: float) -> float:
    """The same to higher order (Daly 2006, "A higher order estimate of the optimum checkpoint interval for
    restart dumps"): also right where a save is not short beside the time between failures.
    """
    if save_seconds >= 2 * failure_seconds:
        return failure_seconds
    part = save_seconds / (2 * failure_seconds)
    return young_interval(save_seconds, failure_seconds) * (1 + math.sqrt(part) / 3 + part / 9) - save_seconds


def expected_seconds(
    work: float, interval: float, save: float, failure: float, restart: float = RESTART_SECONDS
) -> float:
    """Expected wall-clock seconds of `work` seconds of computing (Daly 2006, his complete model).

    A save of `save` seconds follows each `interval` of work. Failures come at random (a Poisson process),
    `failure` seconds apart in the mean, during saves and restarts too; each loses what came after the last
    save.
    """
    segment = math.expm1((interval + save) / failure)
    return failure * math.exp(restart / failure) * segment * work / interval
