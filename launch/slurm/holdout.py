"""The patients that a pipeline holds out of pretraining, to test on."""

from typing import Annotated

from pydantic import Field, model_validator

from fmct_hpc.fields import Seed
from shards.section import Section

Share = Annotated[float, Field(gt=0, lt=1)]


class Holdout(Section):
    """Shares of the patients, drawn by their keys (`fmct shards split`)."""

    test: Share = 0.2
    """On whom probe and sweep are tested."""
    validation: Share = 0.1
    """By whom they choose. The rest is pretrained on, and teaches the probes."""
    seed: Seed = 0

    @model_validator(mode="after")
    def _something_to_train_on(self) -> "Holdout":
        if self.test + self.validation >= 1:
            raise ValueError("test and validation leave no patient for training")
        return self

    @property
    def arguments(self) -> tuple[str, ...]:
        """What `fmct shards split` is given."""
        shares = {"train": 1 - self.validation - self.test, "validation": self.validation, "test": self.test}
        return (*(f"{name}={share:.12g}" for name, share in shares.items()), "--seed", str(self.seed))
