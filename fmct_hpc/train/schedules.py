"""Scheduled values as pure functions of the step, so that a resume needs no further state."""

import math
from typing import NamedTuple

from fmct_hpc.config import TrainConfig

REFERENCE_BATCH = 256
"""Global batch of optim.base_lr; the learning rate is linear in the batch (Goyal et al. 2017)."""


class StepSettings(NamedTuple):
    """The scheduled values of one step."""

    lr: float
    weight_decay: float
    momentum: float
    """The teacher's momentum."""
    teacher_temperature: float
    freeze_prototypes: bool
    weights: dict[str, float]
    """Weights of the objective's parts, by name."""

    def figures(self) -> dict[str, float]:
        """The values as metrics."""
        values = self._asdict()
        weights = {f"{part}_weight": weight for part, weight in values.pop("weights").items()}
        return {name: float(value) for name, value in (values | weights).items()}


def settings(config: TrainConfig, step: int) -> StepSettings:
    """The scheduled values of `step`, counted from 0."""
    optim, objective, steps = config.optim, config.objective, config.run.steps
    progress = step / steps
    begins = {part.name: part.first_step for part in config.parts}
    return StepSettings(
        lr=learning_rate(config, step),
        weight_decay=cosine(*optim.weight_decay, progress),
        momentum=cosine(*objective.ema, progress),
        teacher_temperature=linear(
            *objective.teacher_temperature, ramp(step, steps * objective.teacher_warmup)
        ),
        freeze_prototypes=step < steps * objective.freeze_prototypes,
        weights={
            part: cosine(weight, objective.final_weights.get(part, weight), progress)
            * ramp(step - begins[part], steps * objective.weight_warmups.get(part, 0.0))
            for part, weight in objective.weights.items()
        },
    )


def peak_rate(config: TrainConfig) -> float:
    """The peak learning rate for the run's batch."""
    return config.optim.base_lr * config.run.batch / REFERENCE_BATCH


def learning_rate(config: TrainConfig, step: int) -> float:
    """A linear warm-up to the peak, then a cosine down to optim.min_lr."""
    peak = peak_rate(config)
    warmup = config.run.steps * config.optim.warmup
    if step < warmup:
        return peak * min(1.0, (step + 1) / warmup)
    return cosine(peak, config.optim.min_lr, (step - warmup) / max(1.0, config.run.steps - warmup))


def cosine(start: float, end: float, progress: float) -> float:
    """From `start` at progress 0 to `end` at 1, along half a cosine (Loshchilov and Hutter 2017)."""
    weight = (1 + math.cos(math.pi * progress)) / 2
    return start * weight + end * (1 - weight)


def linear(start: float, end: float, progress: float) -> float:
    """From `start` at progress 0 to `end` at 1."""
    return start + (end - start) * progress


def ramp(step: float, steps: float) -> float:
    """Completed share of a warm-up of `steps` at `step`, in [0, 1]; 0 for a step below 0."""
    if step < 0:
        return 0.0
    return min(1.0, step / steps) if steps else 1.0
