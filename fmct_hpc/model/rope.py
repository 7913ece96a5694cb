"""Rotary positions of patches, axial in three dimensions (Su et al. 2021; Siméoni et al. 2025, section 3.2).

As in facebookresearch/dinov3 (`layers/rope_position_encoding.py`, `layers/attention.py`) in two dimensions:
queries and keys of patches are rotated in every block, those of CLS and registers are not, and nothing is
added to the tokens. A score of two patches then depends only on the difference of their coordinates.
"""

import math

import torch
from torch import Tensor

from fmct_hpc.fields import Edges

PERIOD_BASE = 100.0
"""Longest period over the shortest, which is 1; coordinates span 2 (DINOv3's published configurations)."""


def frequencies(head_width: int) -> int:
    """Periods per axis: each rotates a pair of a head's channels; the remainder modulo 6 is not rotated."""
    return head_width // 6


def patch_coordinates(grid: Edges, device: torch.device) -> Tensor:
    """Centres of a grid's patches, in C order: float32 (N, 3); each axis (D, H, W) spans [-1, 1].

    DINOv3's "separate" normalisation: views of any size have the same coordinate range.
    """
    axes = [(torch.arange(n, dtype=torch.float32, device=device) + 0.5) * (2 / n) - 1 for n in grid]
    return torch.stack(torch.meshgrid(axes, indexing="ij"), dim=-1).flatten(0, 2)


def rotation(coordinates: Tensor, head_width: int) -> Tensor:
    """Cosines and sines of the angles 2π · coordinate / period: (..., n, 3) -> float32 (2, ..., n, r).

    r = 3 · `frequencies`, in the order D, H, W. Periods of an axis: 100^(k / frequencies), k from 0.
    """
    count = frequencies(head_width)
    exponents = torch.arange(count, dtype=torch.float32, device=coordinates.device) / count
    angles = 2 * math.pi * coordinates.unsqueeze(-1) / PERIOD_BASE**exponents
    angles = angles.flatten(-2)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the last n of T tokens: x (B, heads, T, head width), turns from `rotation`, (2, ..., n, r).

    Channels k and k + r are a pair, (a, b) -> (a cos - b sin, b cos + a sin); computed in float32 for types
    of lower precision and returned in x's type, as in DINOv3.
    """
    n, r = turns.shape[-2:]
    prefix, patches = x[:, :, :-n], x[:, :, -n:]
    a, b, rest = patches.split([r, r, x.shape[-1] - 2 * r], dim=-1)
    cosines, sines = turns
    turned = torch.cat([a * cosines - b * sines, b * cosines + a * sines, rest], dim=-1)
    return torch.cat([prefix, turned.to(x.dtype)], dim=2)
