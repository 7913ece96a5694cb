"""Gram anchoring: patch tokens keep their earlier pairwise similarities (DINOv3, section 4.2).

Siméoni et al. 2025, "DINOv3": in a long training patch tokens lose spatial detail while the CLS token still
improves. So their similarities are kept near those of an anchor, an earlier copy of the teacher that is
refreshed regularly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fmct_hpc.fields import AtLeast0, Fraction
from fmct_hpc.model.size import encoder_flops, patches_per_view
from fmct_hpc.objective.part import Costs, ForwardPass, Part, PartLoss
from shards.section import Section

if TYPE_CHECKING:
    from torch import Tensor


class GramKeys(Section):
    """Gram anchoring's keys."""

    gram_weight: AtLeast0 = 0.0
    """Weight of Gram anchoring (DINOv3, section 4.2: 2)."""
    gram_begin: Annotated[Fraction, Field(lt=1)] = 0.5
    """Share of all steps after which it starts; the first anchor is the teacher at that step (DINOv3: after
    1,000,000 steps, when patch features are past their best)."""
    gram_refresh: Annotated[Fraction, Field(gt=0)] = 0.1
    """Share of all steps between refreshes, at which the anchor becomes the current teacher (DINOv3: every
    10,000 steps)."""


class Gram(Part):
    """Keeps the similarities of a global view's patches near those in the anchor."""

    name = "gram"
    title = "Gram anchoring"
    learns = False
    anchored = True
    needs = ()

    def require(self) -> None:
        """Raise ValueError without a teacher."""
        if not self.config.objective.distils:
            raise ValueError(
                "objective.gram_weight needs a teacher, an earlier copy of which is the anchor: "
                "objective.dino_weight or ibot_weight must be above 0"
            )

    @property
    def begins(self) -> float:
        """Share of all steps before which its weight is 0."""
        return self.config.objective.gram_begin

    def refreshes(self, step: int) -> bool:
        """At the first step with Gram anchoring, then at regular intervals."""
        since, every = step - self.first_step, self.config.run.steps * self.config.objective.gram_refresh
        return since >= 0 and since % max(1, round(every)) == 0

    def loss(self, forward: ForwardPass) -> PartLoss:
        """`gram_loss` of the global views; 0 before it begins."""
        if forward.target is None:
            import torch

            return PartLoss(forward.whole.new_zeros((), dtype=torch.float32))
        return PartLoss(gram_loss(forward.whole_patches, forward.target))

    def costs(self) -> Costs:
        """Costs of the anchor's pass and of the similarities of all patches, averaged over all steps."""
        config, patches = self.config, patches_per_view(self.config)
        views, products = config.data.global_views, 2 * patches**2 * config.model.width
        return Costs(
            student=round((1 - self.begins) * views * products),
            teacher=round((1 - self.begins) * views * (encoder_flops(config) + products)),
            targets=views * patches * config.model.width,
            outputs=2 * views * patches**2,
        )


def gram_loss(student: Tensor, anchor: Tensor) -> Tensor:
    """Mean squared difference of the patches' cosine similarities: a float32 scalar.

    student, anchor: patch tokens (G, B, N, width) of the same views. ‖X·Xᵀ - Y·Yᵀ‖² / N² with rows of X and Y
    of length 1 (DINOv3, equation 2, with the mean instead of the sum over the N² pairs, as in its published
    code), averaged over views and volumes. With iBOT it includes the student's tokens of masked patches.
    """
    import torch
    import torch.nn.functional as F

    with torch.autocast(student.device.type, enabled=False):  # it would multiply in bfloat16
        mine, theirs = (F.normalize(tokens.float(), dim=-1) for tokens in (student, anchor))
        return (mine @ mine.transpose(-1, -2) - theirs @ theirs.transpose(-1, -2)).square().mean()
