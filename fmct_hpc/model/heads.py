"""The DINO projection head (Caron et al. 2021, section 3 and appendix C)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmct_hpc.model.block import initialise, initialise_weight
from fmct_hpc.model.config import ModelConfig


class Prototypes(nn.Module):
    """Cosine similarity to each prototype: a linear layer with rows of length 1.

    The weight is normalised in the forward pass: weight normalisation with a gain of 1 that, unlike torch's
    parametrisation, works with weights partitioned by ZeRO.
    """

    def __init__(self, width: int, prototypes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(prototypes, width))

    def forward(self, x: Tensor, frozen: bool) -> Tensor:
        """(..., width) of length 1 -> (..., prototypes); `frozen` gives the weight a gradient of exactly 0.

        A gradient of 0 instead of None: under ZeRO every parameter must be in each reduction.
        """
        weight = self.weight.detach() + 0 * self.weight if frozen else self.weight
        return F.linear(x, F.normalize(weight, dim=-1))


class DinoHead(nn.Module):
    """Three-layer MLP to a normalised bottleneck, then prototypes."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(model.width, model.head_hidden),
            nn.GELU(),
            nn.Linear(model.head_hidden, model.head_hidden),
            nn.GELU(),
            nn.Linear(model.head_hidden, model.head_bottleneck),
        )
        initialise(self.mlp, model.initialisation)
        self.prototypes = Prototypes(model.head_bottleneck, model.prototypes)
        initialise_weight(self.prototypes.weight, model.initialisation)

    def forward(self, tokens: Tensor, freeze_prototypes: bool = False) -> Tensor:
        """(..., width) -> logits (..., prototypes)."""
        return self.prototypes(F.normalize(self.mlp(tokens), dim=-1), freeze_prototypes)
