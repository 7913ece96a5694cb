"""Common to DINO and iBOT: prototype heads, and targets from the teacher's logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from fmct_hpc.fields import Above0, Fraction, Positive
from fmct_hpc.objective.part import ForwardPass, Part
from shards.section import Section

if TYPE_CHECKING:
    from fmct_hpc.config import TrainConfig
    from fmct_hpc.model.heads import DinoHead
    from fmct_hpc.objective.targets import Centring


class DistillationKeys(Section):
    """Keys that DINO and iBOT share."""

    student_temperature: Above0 = 0.1
    teacher_temperature: tuple[Above0, Above0] = (0.04, 0.04)
    """Start and end of the linear warm-up (Caron et al. 2021: 0.04, raised only if stable)."""
    teacher_warmup: Fraction = 0.1
    """Share of all steps over which the teacher temperature warms up."""
    centring: Literal["mean", "sinkhorn"] = "mean"
    """How the teacher's collapse is prevented: subtracting a running mean (Caron et al. 2021), or
    Sinkhorn-Knopp over the step's global batch (Caron et al. 2020, as in DINOv2)."""
    center_momentum: Fraction = 0.9
    sinkhorn_iterations: Positive = 3
    """Caron et al. 2020, section 3.1: 3."""
    ema: tuple[Fraction, Fraction] = (0.994, 1.0)
    """Teacher momentum: start and end of a cosine over the steps."""
    freeze_prototypes: Fraction = 0.01
    """Share of all steps in which the heads' last layers are frozen (one epoch of 100)."""


class Distillation(Part):
    """A part whose targets are the teacher's prototype probabilities."""

    has_teacher: ClassVar[bool] = True

    def centring(self) -> Centring:
        """This part's running centre or Sinkhorn-Knopp."""
        from fmct_hpc.objective.targets import RunningCentre, SinkhornKnopp

        objective = self.config.objective
        if objective.centring == "sinkhorn":
            return SinkhornKnopp(objective.sinkhorn_iterations)
        return RunningCentre(self.config.model.prototypes, objective.center_momentum)

    def new_head(self) -> DinoHead:
        """A new prototype head."""
        from fmct_hpc.model.heads import DinoHead

        return DinoHead(self.config.model)


def head_of(forward: ForwardPass, name: str) -> DinoHead:
    """The network's head of that name."""
    from fmct_hpc.model.heads import DinoHead

    return forward.module(name, DinoHead)


def kept_scores(config: TrainConfig, targets: float, outputs: float) -> tuple[float, float]:
    """float32 numbers kept for that many rows of targets and outputs over all prototypes.

    Numbers of copies as measured with 16,384 prototypes: 2 of the targets, 4 with Sinkhorn, 3 of the
    student's.
    """
    copies = 4 if config.objective.centring == "sinkhorn" else 2
    return copies * targets * config.model.prototypes, 3 * outputs * config.model.prototypes
