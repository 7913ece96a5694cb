"""Cutting a view into patches, putting it together again, and where each patch lies."""

import torch
from torch import Tensor

POSITION_TEMPERATURE = 10_000.0
"""Longest wavelength over 2π (Vaswani et al. 2017, section 3.5)."""


def patchify(views: Tensor, patch: int) -> Tensor:
    """(B, C, S, S, S) -> (B, N, C · patch³): patches in C order of (D, H, W), channels first inside."""
    batch, channels, size = views.shape[0], views.shape[1], views.shape[2]
    grid = size // patch
    cut = views.reshape(batch, channels, grid, patch, grid, patch, grid, patch)
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, grid**3, channels * patch**3)


def unpatchify(patches: Tensor, patch: int, channels: int) -> Tensor:
    """(B, N, C · patch³) -> (B, C, S, S, S): the inverse of `patchify`."""
    grid = round(patches.shape[1] ** (1 / 3))
    cut = patches.reshape(-1, grid, grid, grid, channels, patch, patch, patch)
    return cut.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(-1, channels, *(3 * (grid * patch,)))


def sincos_positions(grid: int, width: int) -> Tensor:
    """Fixed positions of grid³ patches: float32 (grid³, width).

    Each axis gets a sixth of the channels for sines and a sixth for cosines (the reference's order: H,
    D, W); what a width not divisible by 6 leaves over stays 0.
    """
    frequencies = width // 6
    omega = POSITION_TEMPERATURE ** -(torch.arange(frequencies, dtype=torch.float64) / frequencies)
    axes = torch.meshgrid(*(3 * [torch.arange(grid, dtype=torch.float64)]), indexing="ij")
    depth, height, across = (axis.reshape(-1, 1) * omega for axis in axes)
    waves = [wave(angle) for angle in (height, depth, across) for wave in (torch.sin, torch.cos)]
    positions = torch.zeros(grid**3, width)
    positions[:, : 6 * frequencies] = torch.cat(waves, dim=1).float()
    return positions
