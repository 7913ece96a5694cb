"""Length of a run: run.steps, or run.epochs of the dataset's volumes."""

import math

from fmct_hpc.config import TrainConfig
from shards import info
from shards.errors import FmctError

MAX_EPOCHS = 2000
"""More epochs cause a warning: the longest recipe here has 1,600, DINO and MAE have 800 and 1,600 on a
million images (Caron et al. 2021, table 2; He et al. 2022, figure 7)."""


def with_steps(config: TrainConfig) -> TrainConfig:
    """The same with run.steps computed from run.epochs and the dataset; unchanged without run.epochs.

    The last epoch is complete. Depends only on configuration and dataset, so every start of a run computes
    the same; a record has both keys and is consistent.

    Raises FmctError where run.steps is given too and differs.
    """
    epochs, batch = config.run.epochs, config.run.batch
    if epochs is None:
        return config
    volumes = info.read(config.data.path).volumes
    steps = max(1, math.ceil(epochs * volumes / batch))
    if "steps" in config.run.model_fields_set and config.run.steps != steps:
        raise FmctError(
            f"run.steps={config.run.steps} and run.epochs={epochs:g} are both given, but {epochs:g} epochs "
            f"of {volumes} volumes at run.batch={batch} are {steps} steps: set either to null"
        )
    return config.model_copy(update={"run": config.run.model_copy(update={"steps": steps})})


def epochs_of(config: TrainConfig, volumes: int) -> float:
    """How often a run sees each of `volumes` volumes."""
    return config.run.steps * config.run.batch / volumes


def too_many_epochs(config: TrainConfig, volumes: int) -> str | None:
    """A warning for a run of more than `MAX_EPOCHS`, else None."""
    epochs = epochs_of(config, volumes)
    if epochs <= MAX_EPOCHS:
        return None
    keys = "run.steps=null run.epochs=800" if config.run.epochs is None else "run.epochs=800"
    return (
        f"{epochs:,.0f} epochs of {volumes:,} volumes, far more than useful: set for example {keys}, or use "
        "the recipe for small archives, launch/recipes/small-hospital-train.yaml"
    )
