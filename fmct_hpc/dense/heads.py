"""The two heads, which map standardised patch tokens to a logit per class and cell."""

import numpy as np
import torch
from torch import Tensor, nn

from fmct_hpc.dense.config import HeadName
from fmct_hpc.fields import Edges

MIN_HIDDEN = 16
_GROUPS = 4
"""Groups of GroupNorm, used for small batches (Wu and He 2018); all widths here are multiples of it."""


class Linear(nn.Module):
    """A linear map from each patch's token to its cells."""

    def __init__(self, width: int, classes: int, grid: Edges, cells: int) -> None:
        super().__init__()
        self.grid, self.cells, self.classes = grid, cells, classes
        self.read_out = nn.Linear(width, classes * cells**3)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, width) -> (B, C, D, H, W), cells along each axis."""
        (d, h, w), c = self.grid, self.cells
        logits = self.read_out(tokens).reshape(-1, d, h, w, self.classes, c, c, c)
        return logits.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(-1, self.classes, d * c, h * c, w * c)


class Convolution(nn.Module):
    """A head with context of neighbouring patches: transposed convolutions that double the resolution."""

    def __init__(self, width: int, classes: int, grid: Edges, cells: int, hidden: int) -> None:
        super().__init__()
        self.grid = grid
        hidden = max(MIN_HIDDEN, hidden // _GROUPS * _GROUPS)
        layers: list[nn.Module] = [nn.Conv3d(width, hidden, 1), *_convolved(hidden, hidden)]
        for _ in range(int(np.log2(cells))):
            finer = max(MIN_HIDDEN, hidden // 2 // _GROUPS * _GROUPS)
            layers += [nn.ConvTranspose3d(hidden, finer, 2, stride=2), *_convolved(finer, finer)]
            hidden = finer
        self.read_out = nn.Conv3d(hidden, classes, 1)
        self.layers = nn.Sequential(*layers)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, width) -> (B, C, D, H, W), cells along each axis."""
        return self.read_out(self.layers(tokens.transpose(1, 2).unflatten(2, self.grid)))


def _convolved(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv3d(inputs, outputs, 3, padding=1), nn.GroupNorm(_GROUPS, outputs), nn.GELU()]


def make_head(
    name: HeadName, width: int, grid: Edges, cells: int, hidden: int, prevalence: Tensor, seed: int
) -> Linear | Convolution:
    """A head with weights from the seed, which initially predicts the classes' prevalence (C,).

    Otherwise the first gradients of rare classes would only lower their predictions (Lin et al. 2017, section
    3.3).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classes = len(prevalence)
        head = (
            Linear(width, classes, grid, cells)
            if name == "linear"
            else Convolution(width, classes, grid, cells, hidden)
        )
    prior = torch.logit(prevalence.clamp(1e-4, 0.5)).float()
    with torch.no_grad():
        head.read_out.weight.mul_(0.1)
        bias = prior.repeat_interleave(cells**3) if name == "linear" else prior
        assert head.read_out.bias is not None
        head.read_out.bias.copy_(bias)
    return head
