"""Whether training on one GPU is reproducible: repeated, and stopped and resumed."""

import copy

import torch
from measure import Measurement
from plain_training import PlainTraining, configuration, drawn_views

from fmct_hpc.data.views import Views

STEPS, TOY_STEPS = 10, 4


def measure(m: Measurement) -> None:
    """One row for each of the two, with and without deterministic kernels."""
    steps = TOY_STEPS if m.dry else STEPS
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        config = configuration(m.dry, batch=2 if m.dry else 16)
        views = drawn_views(config, m.device)

        def losses(training: PlainTraining, first: int, last: int, views: Views = views) -> list[float]:
            return [training.step(number, views).item() for number in range(first, last)]

        unbroken, twice = PlainTraining(config, m.device), PlainTraining(config, m.device)
        first, again = losses(unbroken, 0, steps), losses(twice, 0, steps)
        stopped = PlainTraining(config, m.device)
        before = losses(stopped, 0, steps // 2)
        state = copy.deepcopy(stopped.state())
        resumed = PlainTraining(config, m.device)
        resumed.load(state)
        after = before + losses(resumed, steps // 2, steps)
        for what, other in (("the same again", again), ("stopped and resumed", after)):
            gap = max(abs(a - b) for a, b in zip(first, other, strict=True))
            m.add(
                what=what,
                deterministic=deterministic,
                steps=steps,
                identical=first == other,
                greatest_difference=gap,
            )
    torch.use_deterministic_algorithms(False)
