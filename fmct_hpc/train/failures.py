"""The cost of failures, and the optimal checkpoint interval (Daly 2006)."""

import math

RESTART_SECONDS = 300.0
"""From a failure to the first new step: queue, imports, reading and verifying the checkpoint. An assumption;
`fmct launch status` shows the starts of a run."""


def young_interval(save_seconds: float, failure_seconds: float) -> float:
    """Optimal seconds of work between saves, to first order: sqrt(2 δ M) (Young 1974)."""
    return math.sqrt(2 * save_seconds * failure_seconds)


def daly_interval(save_seconds: float, failure_seconds: float) -> float:
    """The same to higher order (Daly 2006, "A higher order estimate of the optimum checkpoint interval for
    restart dumps"): also valid if a save is not short compared with the time between failures.
    """
    if save_seconds >= 2 * failure_seconds:
        return failure_seconds
    part = save_seconds / (2 * failure_seconds)
    return young_interval(save_seconds, failure_seconds) * (1 + math.sqrt(part) / 3 + part / 9) - save_seconds


def expected_seconds(
    work: float, interval: float, save: float, failure: float, restart: float = RESTART_SECONDS
) -> float:
    """Expected wall-clock seconds of `work` seconds of computing (Daly 2006, complete model).

    A save of `save` seconds follows each `interval` of work. Failures are a Poisson process with a mean
    interval of `failure` seconds, also during saves and restarts; each loses the work since the last save.
    """
    segment = math.expm1((interval + save) / failure)
    return failure * math.exp(restart / failure) * segment * work / interval
