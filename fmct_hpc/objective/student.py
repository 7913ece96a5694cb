"""Student and teacher: the networks that the joint objective trains.

What shares a pass of the encoder, and what cannot: DINO, iBOT and KoLeo read one pass over all views (two
where local views have fewer voxels), in which iBOT's patches are replaced by a mask token (as in iBOT and
DINOv2, the student's global views are the masked ones for DINO too). MAE's encoder sees the visible patches
alone: with attention over other tokens, none of its activations is one of the first pass, so it has a short
pass of its own through the same weights.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.views import Views
from fmct_hpc.model.decoder import MaeDecoder
from fmct_hpc.model.heads import DinoHead
from fmct_hpc.model.patches import patchify, unpatchify
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.objective.dino import dino_loss, feature_deviation, health
from fmct_hpc.objective.draws import Draws, Masked
from fmct_hpc.objective.ibot import ibot_loss
from fmct_hpc.objective.koleo import koleo_loss
from fmct_hpc.objective.mae import mae_loss, normalise_patches
from fmct_hpc.objective.targets import Scores


class Losses(NamedTuple):
    """What a forward pass of the student gives; 0-d float32 tensors."""

    total: Tensor
    parts: dict[str, Tensor]
    """Each part's loss before its weight, by name: dino, ibot, koleo, mae."""
    health: dict[str, Tensor]
    """Detached signs of collapse."""


class Student(nn.Module):
    """One encoder, and what the objective's parts need beside it; for a weight of 0 nothing is built."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        objective, model = config.objective, config.model
        self.objective, self.global_views = objective, config.data.global_views
        channels, size = len(config.data.windows), config.data.view_size
        self.encoder = VisionTransformer(model, channels, size)
        self.head, self.ibot_head = _heads(config)
        self.mask_token = nn.Parameter(torch.zeros(model.width)) if objective.ibot_weight else None
        self.decoder = MaeDecoder(model, channels, size) if objective.mae_weight else None

    def forward(
        self,
        views: Views,
        targets: Scores,
        draws: Draws,
        freeze_prototypes: bool = False,
        weights: dict[str, float] | None = None,
    ) -> Losses:
        """L = Σ weight · L over the parts.

        targets: from the teacher, for DINO and iBOT.
        weights: of the parts at this step; None: those that the run begins with.
        """
        parts: dict[str, Tensor] = {}
        signs: dict[str, Tensor] = {}
        temperature = self.objective.student_temperature
        if self.objective.compares_views:
            tokens, cls = self._encode(views, draws)
            signs["feature_deviation"] = feature_deviation(cls[: self.global_views])
        if self.head is not None:
            assert targets.cls is not None, "DINO needs the teacher's targets"
            logits = self.head(cls, freeze_prototypes)
            parts["dino"] = dino_loss(logits, targets.cls, temperature)
            signs |= health(logits, targets.cls, temperature)
        if self.mask_token is not None:
            assert targets.patches is not None, "iBOT needs the teacher's targets"
            assert draws.masked is not None, "iBOT needs masked patches"
            head = patch_head(self)
            logits = head(masked_tokens(tokens, draws.masked, self.encoder.prefix), freeze_prototypes)
            parts["ibot"] = ibot_loss(logits, targets.patches, draws.masked.weights, temperature)
        if self.objective.koleo_weight:
            parts["koleo"] = koleo_loss(cls[: self.global_views])
        if self.decoder is not None:
            parts["mae"] = self._reconstruction_loss(views.whole[0], draws)
        weights = weights or self.objective.weights
        total = torch.stack([weights[name] * loss for name, loss in parts.items()]).sum()
        return Losses(total, parts, signs)

    def _encode(self, views: Views, draws: Draws) -> tuple[Tensor, Tensor]:
        """Tokens of the global views (G, B, prefix + N, width), and CLS of all views (V, B, width).

        In a pass for each size of view; iBOT hides patches in the first alone.
        """
        tokens: list[Tensor] = []
        first = 0
        for group in views.by_size():
            masked = scales = None
            if draws.masked is not None and self.mask_token is not None and not first:
                where = draws.masked.where
                local = where.new_zeros((len(group) - len(where), *where.shape[1:]))
                masked = (torch.cat([where, local]).flatten(0, 1), self.mask_token)
            if draws.path_scales is not None:
                scales = draws.path_scales[first : first + len(group)].flatten(0, 1)
            found = self.encoder(group.flatten(0, 1), masked=masked, path_scales=scales)
            tokens.append(found.unflatten(0, group.shape[:2]))
            first += len(group)
        return tokens[0][: len(views.whole)], torch.cat([found[:, :, 0] for found in tokens])

    def _reconstruction_loss(self, view: Tensor, draws: Draws) -> Tensor:
        assert self.decoder is not None
        assert draws.keep is not None, "MAE needs the visible patches"
        target = patchify(self.encoder.standardise(view), self.encoder.patch_size).float()
        if self.objective.normalise_patches:
            target = normalise_patches(target)
        visible = self.encoder(view, draws.keep, path_scales=draws.mae_path_scales)
        return mae_loss(self.decoder(visible, draws.keep), target, draws.keep)

    @torch.no_grad()
    def reconstruct(self, view: Tensor, keep: Tensor) -> Tensor:
        """What the decoder makes of the patches `keep` of view, (B, C, S, S, S), in the same shape.

        Visible patches are the view's own. Where targets were normalised, predictions are given each
        patch's true mean and deviation back, as MAE's published figures are.
        """
        assert self.decoder is not None, "only a model with an MAE decoder reconstructs"
        truth = patchify(self.encoder.standardise(view), self.encoder.patch_size).float()
        predicted = self.decoder(self.encoder(view, keep), keep).float()
        if self.objective.normalise_patches:
            predicted = predicted * truth.std(dim=-1, keepdim=True) + truth.mean(dim=-1, keepdim=True)
        patch, channels = self.encoder.patch_size, view.shape[1]
        values = patchify(self.encoder.standardise.inverse(unpatchify(predicted, patch, channels)), patch)
        places = keep.unsqueeze(-1).expand(-1, -1, truth.shape[-1])
        whole = values.scatter(1, places, patchify(view, patch).float().gather(1, places))
        return unpatchify(whole, patch, channels)


class Teacher(nn.Module):
    """The student's running mean: an encoder with its heads, never trained by gradients."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        channels, size = len(config.data.windows), config.data.view_size
        self.encoder = VisionTransformer(config.model, channels, size)
        self.head, self.ibot_head = _heads(config)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, views: Tensor, masked: Masked | None = None) -> Scores:
        """Logits for global views (G, B, C, S, S, S), seen whole, and the patches hidden from the student."""
        tokens = self.encoder(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        cls = None if self.head is None else self.head(tokens[:, :, 0])
        patches = None
        if masked is not None:
            patches = patch_head(self)(masked_tokens(tokens, masked, self.encoder.prefix))
        return Scores(cls, patches)


def _heads(config: TrainConfig) -> tuple[DinoHead | None, DinoHead | None]:
    """For the CLS token, and for patches where they have one of their own."""
    objective = config.objective
    own = objective.ibot_weight and not objective.ibot_shared_head
    return (
        DinoHead(config.model) if objective.dino_weight else None,
        DinoHead(config.model) if own else None,
    )


def patch_head(network: Student | Teacher) -> DinoHead:
    """The head that iBOT's patches go through."""
    head = network.ibot_head if network.ibot_head is not None else network.head
    assert head is not None
    return head


def masked_tokens(tokens: Tensor, masked: Masked, prefix: int) -> Tensor:
    """Tokens (V, B, prefix + N, width), global views first -> those of masked patches, (M, width)."""
    patches = tokens[: len(masked.where), :, prefix:]
    return patches.flatten(0, 2)[masked.numbers]
