"""Student and teacher: an encoder each, and what the objective's parts need beside it.

Parts that look at whole views read one pass over all of them (two where local views have fewer voxels), in
which one part may hide patches behind a token; what a part can't take from there it computes in a pass of its
own.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.views import Views
from fmct_hpc.model.backbone import summary
from fmct_hpc.model.kinds import build_encoder
from fmct_hpc.objective.draws import Draws
from fmct_hpc.objective.part import Seen
from fmct_hpc.objective.spread import feature_deviation

if TYPE_CHECKING:
    from fmct_hpc.train.schedules import StepSettings


class Losses(NamedTuple):
    """What a forward pass of the student gives; 0-d float32 tensors."""

    total: Tensor
    parts: dict[str, Tensor]
    """Each part's loss before its weight, by name."""
    health: dict[str, Tensor]
    """Detached signs of collapse."""


class Student(nn.Module):
    """One encoder, and the modules of the objective's parts; of a weight of 0 nothing is built."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.parts, self.global_views = config.parts, config.data.global_views
        self.shares_pass = config.objective.compares_views
        self.encoder = build_encoder(config.model, len(config.data.windows), config.data.view_size)
        for part in self.parts:
            for name, module in part.modules().items():
                assert not hasattr(self, name), f"{part.name} builds {name}, which is there already"
                setattr(self, name, module)

    def forward(
        self, views: Views, targets: Mapping[str, Tensor], draws: Draws, now: "StepSettings"
    ) -> Losses:
        """L = Σ weight · L over the parts.

        targets: from the teacher, by the parts' names.
        """
        losses: dict[str, Tensor] = {}
        signs: dict[str, Tensor] = {}
        whole = local = views.whole.new_empty(0)
        kept = None
        if self.shares_pass:
            whole, local, kept = self._encode(views, draws)
            signs["feature_deviation"] = feature_deviation(summary(whole, self.encoder.prefix))
        for part in self.parts:
            own = draws.parts.get(part.name), targets.get(part.name)
            judged = part.loss(Seen(self, views, whole, local, kept, now, *own))
            losses[part.name] = judged.loss
            signs |= judged.figures
        total = torch.stack([now.weights[name] * loss for name, loss in losses.items()]).sum()
        return Losses(total, losses, signs)

    def _encode(self, views: Views, draws: Draws) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens of the global views (G, B, prefix + n, width) and the local ones (L, B, prefix + m, width).

        In a pass for each size of view; what is hidden is hidden in global views alone. And `Seen.kept`.
        """
        found: list[Tensor] = []
        first, of_whole = 0, None
        for group in views.by_size():
            masked = scales = None
            kept = self.encoder.kept(group.flatten(0, 1))
            if not first and kept is not None:
                of_whole = kept.unflatten(0, group.shape[:2])[: len(views.whole)]
            if not first and (hidden := self._hidden(draws, of_whole)) is not None:
                where, token = hidden
                rest = where.new_zeros((len(group) - len(where), *where.shape[1:]))
                masked = (torch.cat([where, rest]).flatten(0, 1), token)
            if draws.path_scales is not None:
                scales = draws.path_scales[first : first + len(group)].flatten(0, 1)
            tokens: Tensor = self.encoder(
                group.flatten(0, 1), kept, masked=masked, path_scales=scales, rope_boxes=draws.rope_boxes
            )
            found.append(tokens.unflatten(0, group.shape[:2]))
            first += len(group)
        whole = found[0][: len(views.whole)]
        return whole, found[1] if len(found) > 1 else found[0][len(views.whole) :], of_whole

    def _hidden(self, draws: Draws, kept: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """What the one part that may hides from the global views: bool (G, B, n) and a token (width,)."""
        found = [part.hidden(self, draws.parts.get(part.name), kept) for part in self.parts]
        hidden = [one for one in found if one is not None]
        assert len(hidden) < 2, "two parts hide patches"
        return hidden[0] if hidden else None


class Teacher(nn.Module):
    """The student's running mean: an encoder with those modules that parts compare in, never trained."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.parts = [part for part in config.parts if part.has_teacher]
        self.encoder = build_encoder(config.model, len(config.data.windows), config.data.view_size)
        for part in self.parts:
            for name, module in part.modules().items():
                if name in part.taught:
                    setattr(self, name, module)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, views: Tensor, draws: Draws, now: "StepSettings") -> dict[str, Tensor]:
        """What it says to each part of global views (G, B, C, D, H, W), none of it hidden."""
        flat = views.flatten(0, 1)
        kept = self.encoder.kept(flat)
        tokens = self.encoder(flat, kept).unflatten(0, views.shape[:2])
        of_whole = None if kept is None else kept.unflatten(0, views.shape[:2])
        seen = Seen(self, Views(views, None), tokens, tokens[:0], of_whole, now)
        return {part.name: part.teach(replace(seen, drawn=draws.parts.get(part.name))) for part in self.parts}
