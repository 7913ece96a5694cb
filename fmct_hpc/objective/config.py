"""The weights of the objective's parts. A part's other keys are in its own file."""

from typing import ClassVar

from pydantic import Field, model_validator

from fmct_hpc.fields import AtLeast0, Fraction
from fmct_hpc.objective.part import Part
from shards.section import Section


class WeightsConfig(Section):
    """L = Σ weight · L over the parts; a weight of 0 builds nothing of that part."""

    kinds: ClassVar[tuple[type[Part], ...]]
    """All available parts, in the order in which they are built and summed."""

    final_weights: dict[str, AtLeast0] = Field(default_factory=dict)
    """Weights of parts at the last step, reached along a cosine; other parts' weights are constant, as in the
    papers."""
    weight_warmups: dict[str, Fraction] = Field(default_factory=dict)
    """Shares of all steps over which parts' weights rise linearly from 0; other parts have no warm-up.
    Without one, parts that only spread features, such as KoLeo, dominate early in training."""

    @property
    def weights(self) -> dict[str, float]:
        """The weights above 0, by part."""
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
        """Whether a part encodes all complete views; MAE encodes only the first view's visible patches."""
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
                    raise ValueError(f"objective.{key}: {part} has no weight above 0, only {built}")
        return self
