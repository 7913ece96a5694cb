"""What is learned: the parts of the loss and their weights."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fmct_hpc.fields import Above0, AtLeast0, Fraction, Positive
from shards.section import Section


class ObjectiveConfig(Section):
    """L = Σ weight · L over DINO, MAE, iBOT and KoLeo; a weight of 0 builds nothing of that part."""

    dino_weight: AtLeast0 = 1.0
    mae_weight: AtLeast0 = 1.0
    ibot_weight: AtLeast0 = 0.0
    """Masked patches against the teacher's tokens of them (Zhou et al. 2022: 1); the reference has none."""
    koleo_weight: AtLeast0 = 0.0
    """Spreads the CLS tokens of a micro-batch over all ranks (Oquab et al. 2024, DINOv2: 0.1); the reference
    has none."""
    final_weights: dict[str, AtLeast0] = Field(default_factory=dict)
    """Weights that parts reach at the last step, along a cosine; parts not named here keep theirs (the
    papers' are constant)."""
    student_temperature: Above0 = 0.1
    teacher_temperature: tuple[Above0, Above0] = (0.04, 0.04)
    """Start and end of the linear warm-up (Caron et al. 2021: 0.04, raised only if stable)."""
    teacher_warmup: Fraction = 0.1
    """Share of all steps over which the teacher temperature warms up."""
    centring: Literal["mean", "sinkhorn"] = "mean"
    """What keeps the teacher from collapse: a running mean (Caron et al. 2021), or Sinkhorn-Knopp over the
    step's global batch (Caron et al. 2020, as in DINOv2)."""
    center_momentum: Fraction = 0.9
    sinkhorn_iterations: Positive = 3
    """Caron et al. 2020, section 3.1: 3."""
    ema: tuple[Fraction, Fraction] = (0.994, 1.0)
    """Teacher momentum, start and end of a cosine by step."""
    freeze_prototypes: Fraction = 0.01
    """Share of all steps in which the heads' last layers stay fixed (one epoch of 100)."""
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    """He et al. 2022, figure 5."""
    normalise_patches: bool = True
    """MAE target normalised per patch (He et al. 2022, table 1d)."""
    ibot_mask_probability: Annotated[float, Field(gt=0, le=1)] = 0.5
    """How likely a global view is masked for iBOT at all (Zhou et al. 2022, section 4.1)."""
    ibot_mask_ratio: tuple[Fraction, Fraction] = (0.1, 0.5)
    """Least and greatest share of its patches that is masked then (Zhou et al. 2022: 0.3 ± 0.2)."""
    ibot_shared_head: bool = False
    """One head for CLS and patches (iBOT), or one each (DINOv2: better at scale)."""

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each part that is built, by its name."""
        weights = {name: getattr(self, f"{name}_weight") for name in ("dino", "ibot", "koleo", "mae")}
        return {name: weight for name, weight in weights.items() if weight}

    @property
    def distils(self) -> bool:
        """Whether a part learns from the teacher."""
        return bool(self.dino_weight or self.ibot_weight)

    @property
    def compares_views(self) -> bool:
        """Whether a part encodes all views, whole; MAE alone looks at the first one's visible patches."""
        return self.distils or bool(self.koleo_weight)

    @model_validator(mode="after")
    def _something_to_learn(self) -> "ObjectiveConfig":
        if not (self.distils or self.mae_weight):
            raise ValueError("objective.dino_weight, mae_weight and ibot_weight are all 0: nothing to learn")
        for part in self.final_weights:
            if part not in self.weights:
                built = ", ".join(self.weights)
                raise ValueError(f"objective.final_weights: {part} has no weight above 0; {built} have")
        if self.ibot_weight and self.ibot_shared_head and not self.dino_weight:
            raise ValueError(
                "objective.ibot_shared_head shares DINO's: objective.dino_weight must be above 0"
            )
        if not 0 < self.ibot_mask_ratio[0] <= self.ibot_mask_ratio[1] < 1:
            raise ValueError("objective.ibot_mask_ratio must rise from above 0 to below 1")
        return self
