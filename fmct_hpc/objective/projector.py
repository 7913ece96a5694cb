"""LeJEPA's projector of CLS tokens, with batch norm over all ranks."""

import torch
from torch import Tensor, nn

from fmct_hpc.model.block import initialise
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.objective.ranks import mean_over_ranks

NORM_EPS = 1e-5
"""Added to a channel's variance, as in PyTorch's batch norm."""


class BatchNorm(nn.Module):
    """Batch norm (Ioffe and Szegedy 2015, algorithm 1) over the views and volumes of all ranks.

    Without running statistics: the projector is used only in training.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, rows: Tensor) -> Tensor:
        """(V, B, width) -> float32 of that shape; all ranks must call it, with equal V and B."""
        with torch.autocast(rows.device.type, enabled=False):
            rows = rows.float()
            centred = rows - mean_over_ranks(rows.mean(dim=(0, 1)))
            variance = mean_over_ranks(centred.square().mean(dim=(0, 1)))
            return self.weight * centred * (variance + NORM_EPS).rsqrt() + self.bias


class Projector(nn.Module):
    """Embeds CLS tokens: three linear layers with batch norm, as in the published minimal example."""

    def __init__(self, model: ModelConfig, hidden: int, width: int) -> None:
        super().__init__()
        # A bias before a norm has no effect.
        self.mlp = nn.Sequential(
            *(nn.Linear(model.width, hidden, bias=False), BatchNorm(hidden), nn.ReLU()),
            *(nn.Linear(hidden, hidden, bias=False), BatchNorm(hidden), nn.ReLU()),
            nn.Linear(hidden, width),
        )
        initialise(self.mlp, model.initialisation)

    def forward(self, tokens: Tensor) -> Tensor:
        """CLS tokens (V, B, width of the model) -> embeddings (V, B, width)."""
        embeddings: Tensor = self.mlp(tokens)
        return embeddings
