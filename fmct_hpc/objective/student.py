"""Student and teacher: an encoder each, and the modules of the objective's parts.

Parts that use complete views share one pass over all of them (two if local views have fewer voxels), in which
one part may mask patches; other parts run a separate pass.
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
from fmct_hpc.objective.part import ForwardPass
from fmct_hpc.objective.spread import feature_deviation

if TYPE_CHECKING:
    from fmct_hpc.train.schedules import StepSettings


class Losses(NamedTuple):
    """Result of a forward pass of the student; 0-d float32 tensors."""

    total: Tensor
    parts: dict[str, Tensor]
    """Each part's loss before weighting, by name."""
    health: dict[str, Tensor]
    """Detached signs of collapse."""


class Student(nn.Module):
    """The encoder, and the modules of the objective's parts with a weight above 0."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.parts, self.global_views = config.parts, config.data.global_views
        self.shares_pass = config.objective.compares_views
        self.encoder = build_encoder(config.model, len(config.data.windows), config.data.view_size)
        for part in self.parts:
            for name, module in part.modules().items():
                assert not hasattr(self, name), f"{part.name} builds {name}, which exists already"
                setattr(self, name, module)

    def forward(
        self, views: Views, targets: Mapping[str, Tensor], draws: Draws, now: "StepSettings"
    ) -> Losses:
        """L = Σ weight · L over the parts.

        targets: from the teacher, by part.
        """
        losses: dict[str, Tensor] = {}
        signs: dict[str, Tensor] = {}
        whole = local = views.whole.new_empty(0)
        kept = None
        if self.shares_pass:
            whole, local, kept = self.encode(views, draws)
            signs["feature_deviation"] = feature_deviation(summary(whole, self.encoder.prefix))
        for part in self.parts:
            own = draws.parts.get(part.name), targets.get(part.name)
            judged = part.loss(ForwardPass(self, views, whole, local, kept, now, *own))
            losses[part.name] = judged.loss
            signs |= judged.figures
        total = torch.stack([now.weights[name] * loss for name, loss in losses.items()]).sum()
        return Losses(total, losses, signs)

    def encode(self, views: Views, draws: Draws) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens of the global views (G, B, prefix + n, width) and local ones (L, B, prefix + m, width).

        One pass per view size; only global views are masked. Also returns `ForwardPass.kept`.
        """
        encoded: list[Tensor] = []
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
            encoded.append(tokens.unflatten(0, group.shape[:2]))
            first += len(group)
        whole = encoded[0][: len(views.whole)]
        return whole, encoded[1] if len(encoded) > 1 else encoded[0][len(views.whole) :], of_whole

    def _hidden(self, draws: Draws, kept: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """The part's mask of the global views, bool (G, B, n), and its token (width,); None without masks."""
        masks = [part.hidden(self, draws.parts.get(part.name), kept) for part in self.parts]
        hidden = [mask for mask in masks if mask is not None]
        assert len(hidden) < 2, "two parts mask patches"
        return hidden[0] if hidden else None


class Teacher(nn.Module):
    """The student's moving average: the encoder and the parts' `taught` modules, without gradients."""

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
        """The output for each part, from global views (G, B, C, D, H, W) without masking."""
        flat = views.flatten(0, 1)
        kept = self.encoder.kept(flat)
        tokens = self.encoder(flat, kept).unflatten(0, views.shape[:2])
        of_whole = None if kept is None else kept.unflatten(0, views.shape[:2])
        forward = ForwardPass(self, Views(views, None), tokens, tokens[:0], of_whole, now)
        return {
            part.name: part.teach(replace(forward, drawn=draws.parts.get(part.name))) for part in self.parts
        }
