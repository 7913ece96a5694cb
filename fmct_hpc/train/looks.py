"""When a run looks at its features, and asks its online probe."""

from fmct_hpc.config import TrainConfig

FIRST_LOOKS = 4
"""Steps, the first ones, behind which there is a look too: with rates that only begin to rise they show what
the weights told that the run began with."""


def looks(config: TrainConfig, done: int) -> bool:
    """Whether features are looked at behind `done` steps: at first, at intervals, and at the end."""
    every, steps = config.health.interval(config.run.steps), config.run.steps
    return every > 0 and (done <= FIRST_LOOKS or done % every == 0 or done == steps)
