"""Student and teacher: the networks that the joint objective trains."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.decoder import MaeDecoder
from fmct_hpc.model.heads import DinoHead
from fmct_hpc.model.patches import patchify, unpatchify
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.objective.dino import dino_loss, health
from fmct_hpc.objective.mae import mae_loss, normalise_patches


class Losses(NamedTuple):
    """What a forward pass of the student gives; 0-d float32 tensors."""

    total: Tensor
    dino: Tensor | None
    mae: Tensor | None
    health: dict[str, Tensor]
    """Detached signs of collapse, empty without DINO."""


class Student(nn.Module):
    """One encoder with the DINO head, the MAE decoder, or both; a part of weight 0 is not built."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.objective = config.objective
        channels, size = len(config.data.windows), config.data.view_size
        self.encoder = VisionTransformer(config.model, channels, size)
        self.head = DinoHead(config.model) if config.objective.dino_weight else None
        self.decoder = MaeDecoder(config.model, channels, size) if config.objective.mae_weight else None

    def forward(
        self,
        views: Tensor,
        teacher_probabilities: Tensor | None = None,
        keep: Tensor | None = None,
        freeze_prototypes: bool = False,
    ) -> Losses:
        """L = dino_weight · L_dino + mae_weight · L_mae.

        views: (V, B, C, S, S, S), the global ones first. teacher_probabilities: (G, B, K), needed for
        DINO. keep: int64 (B, n), the visible patches of the first view, needed for MAE.
        """
        total = views.new_zeros((), dtype=torch.float32)
        dino = mae = None
        signs: dict[str, Tensor] = {}
        if self.head is not None:
            assert teacher_probabilities is not None, "DINO needs the teacher's probabilities"
            logits = self._logits(views, freeze_prototypes)
            temperature = self.objective.student_temperature
            dino = dino_loss(logits, teacher_probabilities, temperature)
            signs = health(logits, teacher_probabilities, temperature)
            total = total + self.objective.dino_weight * dino
        if self.decoder is not None:
            assert keep is not None, "MAE needs the visible patches"
            target = self._target(views[0])
            mae = mae_loss(self.decoder(self.encoder(views[0], keep), keep), target, keep)
            total = total + self.objective.mae_weight * mae
        return Losses(total, dino, mae, signs)

    def _logits(self, views: Tensor, freeze_prototypes: bool) -> Tensor:
        assert self.head is not None
        return cls_logits(self.encoder, self.head, views, freeze_prototypes)

    def _target(self, view: Tensor) -> Tensor:
        patches = patchify(view, self.encoder.patch_size).float()
        return normalise_patches(patches) if self.objective.normalise_patches else patches

    @torch.no_grad()
    def reconstruct(self, view: Tensor, keep: Tensor) -> Tensor:
        """What the decoder makes of the patches `keep` of view, (B, C, S, S, S), in the same shape.

        Visible patches are the view's own. Where targets were normalised, predictions are given each
        patch's true mean and deviation back, as MAE's published figures are.
        """
        assert self.decoder is not None, "only a model with an MAE decoder reconstructs"
        truth = patchify(view, self.encoder.patch_size).float()
        predicted = self.decoder(self.encoder(view, keep), keep).float()
        if self.objective.normalise_patches:
            predicted = predicted * truth.std(dim=-1, keepdim=True) + truth.mean(dim=-1, keepdim=True)
        places = keep.unsqueeze(-1).expand(-1, -1, truth.shape[-1])
        whole = predicted.scatter(1, places, truth.gather(1, places))
        return unpatchify(whole, self.encoder.patch_size, view.shape[1])


class Teacher(nn.Module):
    """The student's running mean: an encoder with a DINO head, never trained by gradients."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        channels, size = len(config.data.windows), config.data.view_size
        self.encoder = VisionTransformer(config.model, channels, size)
        self.head = DinoHead(config.model)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, views: Tensor) -> Tensor:
        """Global views (G, B, C, S, S, S) -> logits (G, B, K)."""
        return cls_logits(self.encoder, self.head, views, freeze_prototypes=False)


def cls_logits(encoder: VisionTransformer, head: DinoHead, views: Tensor, freeze_prototypes: bool) -> Tensor:
    """(V, B, C, S, S, S) -> logits (V, B, K), all views in one pass, for they are of one size."""
    cls = encoder(views.flatten(0, 1))[:, 0]
    return head(cls, freeze_prototypes).unflatten(0, views.shape[:2])
