"""What is learned: the weights of the objective's parts. Keys of a part stand in its own file."""

from typing import ClassVar

from pydantic import Field, model_validator

from fmct_hpc.fields import AtLeast0, Fraction
from fmct_hpc.objective.part import Part
from shards.section import Section


class WeightsConfig(Section):
    """L = Σ weight · L over the parts; a weight of 0 builds nothing of that part."""

    kinds: ClassVar[tuple[type[Part], ...]]
    """The parts that there are, as they are built and summed."""

    final_weights: dict[str, AtLeast0] = Field(default_factory=dict)
    """Weights that parts reach at the last step, along a cosine; parts not named here keep theirs (the
    papers' are constant)."""
    weight_warmups: dict[str, Fraction] = Field(default_factory=dict)
    """Shares of all steps over which parts' weights rise linearly from 0; of parts not named here they don't.
    What spreads features, as KoLeo does, else leads while what learns them has hardly begun."""

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each part that is built, by its name."""
        weights = {kind.name: float(getattr(self, f"{kind.name}_weight")) for kind in self.kinds}
        return {name: weight for name, weight in weights.items() if weight}

    @property
    def built(self) -> list[type[Part]]:
        """The parts with a weight above 0."""
        return [kind for kind in self.kinds if kind.name in self.weights]

    @property
    def distils(self) -> bool:
        """Whether a part learns from the teacher."""
        return any(kind.has_teacher for kind in self.built)

    @property
    def compares_views(self) -> bool:
        """Whether a part encodes all views, whole; MAE alone looks at the first one's visible patches."""
        return any(kind.shares_pass for kind in self.built)

    @model_validator(mode="after")
    def _something_to_learn(self) -> "WeightsConfig":
        if not any(kind.learns for kind in self.built):
            learning = [f"{kind.name}_weight" for kind in self.kinds if kind.learns]
            raise ValueError(
                f"objective.{', '.join(learning[:-1])} and {learning[-1]} are all 0: nothing to learn"
            )
        for key in ("final_weights", "weight_warmups"):
            for part in getattr(self, key):
                if part not in self.weights:
                    built = ", ".join(self.weights)
                    raise ValueError(f"objective.{key}: {part} has no weight above 0; {built} have")
        return self
