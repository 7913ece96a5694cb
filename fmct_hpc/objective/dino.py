"""Self-distillation of the CLS token: DINO (Caron et al. 2021, algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fmct_hpc.fields import AtLeast0
from fmct_hpc.model.size import head_flops, head_parameters
from fmct_hpc.objective.distillation import Distillation, DistillationKeys, head_of, kept_scores
from fmct_hpc.objective.part import Costs, ForwardPass, PartLoss, Sign
from fmct_hpc.objective.spread import remedy

if TYPE_CHECKING:
    from torch import Tensor, nn


class DinoKeys(DistillationKeys):
    """DINO's keys."""

    dino_weight: AtLeast0 = 1.0


class Dino(Distillation):
    """Predicts the teacher's prototypes of a global view from every other view of the volume."""

    name = "dino"
    title = "DINO"
    relates_views = True
    taught = ("head",)
    target_name = "cls"
    curves = {  # noqa: RUF012
        "Entropy of the prototypes, nats": ("teacher_entropy", "student_entropy"),
        "Divergence of student from teacher, nats": ("divergence",),
        "Prototypes used": ("prototypes_used",),
    }

    @property
    def target_head(self) -> str:
        """Its own head."""
        return "head"

    def require(self) -> None:
        """Raise ValueError for fewer than two global views."""
        if self.config.data.global_views < 2:
            raise ValueError("objective.dino_weight needs data.global_views=2: DINO compares two views")

    def modules(self) -> dict[str, nn.Module | nn.Parameter]:
        """The head."""
        return {"head": self.new_head()}

    def teach(self, forward: ForwardPass) -> Tensor:
        """Logits of the global views, (G, B, K)."""
        logits: Tensor = head_of(forward, "head")(forward.whole_cls)
        return logits

    def loss(self, forward: ForwardPass) -> PartLoss:
        """`dino_loss` and `health`."""
        assert forward.target is not None, "DINO needs the teacher's targets"
        logits = head_of(forward, "head")(forward.cls, forward.now.freeze_prototypes)
        compared = logits, forward.target, self.config.objective.student_temperature
        return PartLoss(dino_loss(*compared), health(*compared))

    def parameters(self) -> dict[str, int]:
        """Parameters of the head."""
        return {"head": head_parameters(self.config.model)}

    def costs(self) -> Costs:
        """Costs of the head on every view."""
        data, each = self.config.data, head_flops(self.config.model)
        targets, outputs = kept_scores(self.config, data.global_views, data.views)
        return Costs(data.views * each, data.global_views * each, targets=targets, outputs=outputs)

    def signs(self, figures: Mapping[str, float], several: bool) -> list[Sign]:
        """Uniform targets, and outputs that never change (Caron et al. 2021, section 5.3)."""
        if "teacher_entropy" not in figures:
            return []
        limits = self.config.health
        limit = (1 - limits.entropy_margin) * math.log(self.config.model.prototypes)
        uniform = figures["teacher_entropy"] > limit
        constant = figures.get("divergence", math.nan) < limits.min_divergence
        single = figures.get("prototypes_used", math.nan) < 2
        changes = remedy(self.config)
        return [
            Sign("near-uniform teacher output", uniform, changes),
            Sign("the student output does not depend on its input", constant, changes),
            *([Sign("all volumes are assigned to one prototype", single, changes)] if several else []),
        ]


def dino_loss(student_logits: Tensor, teacher_probabilities: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy over all pairs of a teacher view and a different student view.

    student_logits: (V, B, K), global views first; teacher_probabilities: (G, B, K). Returns a float32 scalar.
    """
    import torch
    import torch.nn.functional as F

    log_student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    views, teachers = len(log_student), len(teacher_probabilities)
    with torch.autocast(log_student.device.type, enabled=False):  # it would multiply in bfloat16
        pairs = -torch.einsum("gbk,vbk->gv", teacher_probabilities, log_student) / log_student.shape[1]
    same = torch.eye(teachers, views, dtype=torch.bool, device=pairs.device)
    return pairs.masked_fill(same, 0).sum() / (teachers * views - teachers)


def health(student_logits: Tensor, teacher_probabilities: Tensor, temperature: float) -> dict[str, Tensor]:
    """Figures that show collapse, as 0-d float32 tensors.

    Entropies in nats: both are log K after collapse to uniform output, 0 after collapse to one prototype.
    Divergence: KL(teacher || student) over all pairs of views, 0 for constant output (Caron et al. 2021,
    section 5.3). Prototypes used: the number of prototypes that are the most probable one of a view, over all
    ranks.
    """
    import torch
    import torch.nn.functional as F

    student = F.log_softmax(student_logits.detach().float() / temperature, dim=-1)
    teacher_entropy = torch.special.entr(teacher_probabilities).sum(dim=-1).mean()
    cross_entropy = -torch.einsum("gbk,vbk->gvb", teacher_probabilities, student).mean()
    return {
        "teacher_entropy": teacher_entropy,
        "student_entropy": -(student.exp() * student).sum(dim=-1).mean(),
        "divergence": cross_entropy - teacher_entropy,
        "prototypes_used": _distinct(teacher_probabilities.argmax(dim=-1)),
    }


def _distinct(numbers: Tensor) -> Tensor:
    """Number of distinct values over all ranks, which hold equally many numbers; 0-d float32."""
    import torch

    from fmct_hpc.objective.ranks import gathered

    distinct = torch.stack(gathered(numbers)).unique().numel()
    return torch.tensor(float(distinct), device=numbers.device)
