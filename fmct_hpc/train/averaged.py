"""The averaged encoder for observers: the teacher's, or the student's where there is no teacher."""

from typing import NamedTuple

import torch
from torch import Tensor

from fmct_hpc.model.backbone import summary
from fmct_hpc.train.loop import Training


class Tokens(NamedTuple):
    """An encoder's tokens of B views; float32."""

    cls: Tensor
    """(B, width): `fmct_hpc.model.backbone.summary`."""
    patches: Tensor
    """(B, N, width)."""


class AveragedEncoder:
    """Encodes complete views without gradients, in the run's precision; all ranks must call it (ZeRO 3)."""

    def __init__(self, training: Training) -> None:
        module = training.teacher.module if training.teacher else training.engine.module
        self._encoder = module.encoder
        self._place = training.rank_info.device
        self._bf16 = training.config.engine.precision == "bf16"

    @torch.no_grad()
    def __call__(self, views: Tensor) -> Tokens:
        """views: (B, C, S, S, S), windowed to [0, 1]."""
        with torch.autocast(self._place.type, torch.bfloat16, enabled=self._bf16):
            tokens = self._encoder(views.to(self._place)).float()
        return Tokens(summary(tokens, self._encoder.prefix), tokens[:, self._encoder.prefix :])
