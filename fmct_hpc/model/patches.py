"""Cutting a view into patches, putting it together again, and where each patch lies."""

import torch
import torch.nn.functional as F
from torch import Tensor

POSITION_TEMPERATURE = 10_000.0
"""Longest wavelength over 2π (Vaswani et al. 2017, section 3.5)."""


def visible_patches(patches: int, mask_ratio: float) -> int:
    """How many of a view's patches MAE's encoder sees: at least one."""
    return max(1, round(patches * (1 - mask_ratio)))


def patchify(views: Tensor, patch: int) -> Tensor:
    """(B, C, D, H, W) -> (B, N, C · patch³): patches in C order of (D, H, W), channels first inside.

    Raises ValueError where an edge is no multiple of the patch.
    """
    batch, channels, *edges = views.shape
    if any(edge % patch for edge in edges):
        raise ValueError(
            f"views of {tuple(edges)} voxels: each edge must be a multiple of the patch's {patch}"
        )
    d, h, w = (edge // patch for edge in edges)
    cut = views.reshape(batch, channels, d, patch, h, patch, w, patch)
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, d * h * w, channels * patch**3)


def unpatchify(patches: Tensor, patch: int, channels: int) -> Tensor:
    """(B, N, C · patch³) -> (B, C, S, S, S): the inverse of `patchify` for a cube."""
    grid = round(patches.shape[1] ** (1 / 3))
    cut = patches.reshape(-1, grid, grid, grid, channels, patch, patch, patch)
    return cut.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(-1, channels, *(3 * (grid * patch,)))


def sincos_positions(grid: int, width: int) -> Tensor:
    """Fixed positions of grid³ patches: float32 (grid³, width).

    Each axis gets a sixth of the channels for sines and a sixth for cosines, in the order H, W, D (the
    reference's y, x, z), in float32 throughout as the reference computes them; what a width not divisible
    by 6 leaves over stays 0.
    """
    frequencies = width // 6
    omega = 1 / POSITION_TEMPERATURE ** (torch.arange(frequencies, dtype=torch.float32) / frequencies)
    axes = torch.meshgrid(*(3 * [torch.arange(grid, dtype=torch.float32)]), indexing="ij")
    depth, height, across = (axis.reshape(-1, 1) * omega for axis in axes)
    waves = [wave(angle) for angle in (height, across, depth) for wave in (torch.sin, torch.cos)]
    positions = torch.zeros(grid**3, width)
    positions[:, : 6 * frequencies] = torch.cat(waves, dim=1)
    return positions


def resize_positions(positions: Tensor, trained: int, grid: tuple[int, int, int]) -> Tensor:
    """Positions of a `grid` of patches from those of trained³, (trained³, width) -> (N, width).

    Trilinear between the centres of patches, as the reference resizes them; unchanged where the grid is
    the trained one.
    """
    if grid == (trained, trained, trained):
        return positions
    field = positions.T.reshape(1, -1, trained, trained, trained)
    resized = F.interpolate(field.float(), size=grid, mode="trilinear", align_corners=False)
    return resized.flatten(2)[0].T.to(positions.dtype)
