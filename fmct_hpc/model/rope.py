"""Rotary positions of patches, axial in three dimensions (Su et al. 2021; Siméoni et al. 2025, section 3.2).

As facebookresearch/dinov3 (`layers/rope_position_encoding.py`, `layers/attention.py`) has them in two:
queries and keys of patches are turned in every block, those of CLS and registers are not, and nothing is
added to the tokens. A score of two patches then depends on the difference of their coordinates alone.
"""

import math

import torch
from torch import Tensor

from fmct_hpc.fields import Edges

PERIOD_BASE = 100.0
"""Greatest period over the least, which is 1; coordinates span 2 (DINOv3's published configurations)."""


def frequencies(head_width: int) -> int:
    """Periods an axis: each turns a pair of a head's channels; what 6 does not divide is not turned."""
    return head_width // 6


def patch_coordinates(grid: Edges, device: torch.device) -> Tensor:
    """Centres of a grid's patches, in C order: float32 (N, 3); each axis (D, H, W) spans [-1, 1].

    DINOv3's "separate" normalisation: whatever a view's size, it is the same box.
    """
    axes = [(torch.arange(n, dtype=torch.float32, device=device) + 0.5) * (2 / n) - 1 for n in grid]
    return torch.stack(torch.meshgrid(axes, indexing="ij"), dim=-1).flatten(0, 2)


def rotation(coordinates: Tensor, head_width: int) -> Tensor:
    """Cosines and sines of the angles 2π · coordinate / period: (..., n, 3) -> float32 (2, ..., n, r).

    Of r = 3 · `frequencies`, the first third is of D. Periods of an axis: 100^(k / frequencies), k from 0.
    """
    count = frequencies(head_width)
    exponents = torch.arange(count, dtype=torch.float32, device=coordinates.device) / count
    angles = 2 * math.pi * coordinates.unsqueeze(-1) / PERIOD_BASE**exponents
    angles = angles.flatten(-2)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the last n of T tokens: x (B, heads, T, head width), turns as `rotation` gives, (2, ..., n, r).

    Channel k and channel k + r are a pair, (a, b) -> (a cos - b sin, b cos + a sin); computed in the turns'
    float32 where x is of less, and given back in x's type, as DINOv3 does.
    """
    n, r = turns.shape[-2:]
    prefix, patches = x[:, :, :-n], x[:, :, -n:]
    a, b, rest = patches.split([r, r, x.shape[-1] - 2 * r], dim=-1)
    cosines, sines = turns
    turned = torch.cat([a * cosines - b * sines, b * cosines + a * sines, rest], dim=-1)
    return torch.cat([prefix, turned.to(x.dtype)], dim=2)
