"""The patients that a pipeline holds out of pretraining for testing."""

from typing import Annotated

from pydantic import Field, model_validator

from fmct_hpc.fields import Seed
from shards.section import Section

Share = Annotated[float, Field(gt=0, lt=1)]


class Holdout(Section):
    """Shares of the patients, drawn by their keys (`fmct shards split`)."""

    test: Share = 0.2
    """Share of patients that probe and sweep are tested on."""
    validation: Share = 0.1
    """Share for their model selection. The rest is for pretraining, and for training the probes."""
    seed: Seed = 0

    @model_validator(mode="after")
    def _something_to_train_on(self) -> "Holdout":
        if self.test + self.validation >= 1:
            raise ValueError("test and validation leave no patient for training")
        return self

    @property
    def arguments(self) -> tuple[str, ...]:
        """Arguments of `fmct shards split`."""
        shares = {"train": 1 - self.validation - self.test, "validation": self.validation, "test": self.test}
        return (*(f"{name}={share:.12g}" for name, share in shares.items()), "--seed", str(self.seed))
