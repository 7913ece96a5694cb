"""After which steps a run evaluates its features and runs its online probe."""

from fmct_hpc.config import TrainConfig

FIRST_EVALUATIONS = 4
"""Number of first steps that are evaluated too: while the learning rate is near 0 they show the initial
weights."""


def evaluates(config: TrainConfig, done: int) -> bool:
    """Whether features are evaluated after `done` steps: the first ones, at intervals, and at the end."""
    every, steps = config.health.interval(config.run.steps), config.run.steps
    return every > 0 and (done <= FIRST_EVALUATIONS or done % every == 0 or done == steps)
