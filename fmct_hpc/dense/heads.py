"""The two heads: from standardised patch tokens to the logit of each class in each cell."""

import numpy as np
import torch
from torch import Tensor, nn

from fmct_hpc.dense.config import HeadName
from fmct_hpc.fields import Edges

LEAST_HIDDEN = 16
_GROUPS = 4
"""Of GroupNorm, which batches of few volumes need (Wu and He 2018); every width here is a multiple."""


class Linear(nn.Module):
    """A patch's cells from its own token, linearly."""

    def __init__(self, width: int, classes: int, grid: Edges, cells: int) -> None:
        super().__init__()
        self.grid, self.cells, self.classes = grid, cells, classes
        self.read_out = nn.Linear(width, classes * cells**3)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, width) -> (B, C, D, H, W), cells along each axis."""
        (d, h, w), c = self.grid, self.cells
        found = self.read_out(tokens).reshape(-1, d, h, w, self.classes, c, c, c)
        return found.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(-1, self.classes, d * c, h * c, w * c)


class Convolution(nn.Module):
    """Cells from a patch's token and its neighbours': transposed convolutions that double the resolution."""

    def __init__(self, width: int, classes: int, grid: Edges, cells: int, hidden: int) -> None:
        super().__init__()
        self.grid = grid
        hidden = max(LEAST_HIDDEN, hidden // _GROUPS * _GROUPS)
        layers: list[nn.Module] = [nn.Conv3d(width, hidden, 1), *_convolved(hidden, hidden)]
        for _ in range(int(np.log2(cells))):
            finer = max(LEAST_HIDDEN, hidden // 2 // _GROUPS * _GROUPS)
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
    """A head whose weights are a function of the seed, and that says the classes' prevalence (C,) at first.

    So the rare classes' first gradients are no mere push to silence (Lin et al. 2017, section 3.3).
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
