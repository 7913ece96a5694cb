"""How long a run is: run.steps, or run.epochs of the volumes that there are."""

import math

from fmct_hpc.config import TrainConfig
from shards import info
from shards.errors import FmctError

MOST_EPOCHS = 2000
"""What is more is warned of: our recipe of most epochs has 1,600, and DINO and MAE have 800 and 1,600 on a
million images (Caron et al. 2021, table 2; He et al. 2022, figure 7)."""


def with_steps(config: TrainConfig) -> TrainConfig:
    """The same with the steps that run.epochs are of the dataset; as it is where run.epochs is not given.

    The last epoch is done to its end. A function of configuration and dataset, so that every start of a run
    finds the same; a record of it has both, and gives the same again.

    Raises FmctError where run.steps is given too and says something else.
    """
    epochs, batch = config.run.epochs, config.run.batch
    if epochs is None:
        return config
    volumes = info.read(config.data.path).volumes
    steps = max(1, math.ceil(epochs * volumes / batch))
    if "steps" in config.run.model_fields_set and config.run.steps != steps:
        raise FmctError(
            f"run.steps={config.run.steps} and run.epochs={epochs:g} are both given, and that many epochs of "
            f"{volumes} volumes at run.batch={batch} are {steps} steps: set one of them to null"
        )
    return config.model_copy(update={"run": config.run.model_copy(update={"steps": steps})})


def epochs_of(config: TrainConfig, volumes: int) -> float:
    """How often a run sees each of that many volumes."""
    return config.run.steps * config.run.batch / volumes


def too_many_epochs(config: TrainConfig, volumes: int) -> str | None:
    """A warning about a run of more than `MOST_EPOCHS`; None about others."""
    epochs = epochs_of(config, volumes)
    if epochs <= MOST_EPOCHS:
        return None
    keys = "run.steps=null run.epochs=800" if config.run.epochs is None else "run.epochs=800"
    return (
        f"{epochs:,.0f} epochs of {volumes:,} volumes, far more than are of use: set {keys}, say, or take "
        "the recipe for small archives, launch/recipes/small-hospital-train.yaml"
    )
