"""Patches of a view: cutting, reassembling, positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fmct_hpc.fields import Edges, Size, edges

if TYPE_CHECKING:
    from torch import Tensor

POSITION_TEMPERATURE = 10_000.0
"""Longest wavelength over 2π (Vaswani et al. 2017, section 3.5)."""


def visible_patches(patches: int, mask_ratio: float) -> int:
    """Number of a view's patches that are visible to MAE's encoder, at least one."""
    return max(1, round(patches * (1 - mask_ratio)))


def grid_of(view_size: int | Sequence[int], patch_size: Size) -> Edges:
    """Patches of a view along (D, H, W)."""
    d, h, w = (view // patch for view, patch in zip(edges(view_size), edges(patch_size), strict=True))
    return d, h, w


def patchify(views: Tensor, patch_size: Size) -> Tensor:
    """(B, C, D, H, W) -> (B, N, C · patch voxels): patches in C order of (D, H, W), each channels first.

    Raises ValueError where an edge is not a multiple of the patch's.
    """
    batch, channels, *size = views.shape
    patch = edges(patch_size)
    if any(edge % part for edge, part in zip(size, patch, strict=True)):
        raise ValueError(
            f"views of {tuple(size)} voxels: each edge must be a multiple of the patch's {patch}"
        )
    (d, h, w), (z, y, x) = grid_of(size, patch), patch
    cut = views.reshape(batch, channels, d, z, h, y, w, x)
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, d * h * w, channels * z * y * x)


def unpatchify(patches: Tensor, patch_size: Size, view_size: int | Sequence[int]) -> Tensor:
    """(B, N, C · patch voxels) -> (B, C, D, H, W) of view_size: the inverse of `patchify`."""
    (d, h, w), (z, y, x) = grid_of(view_size, patch_size), edges(patch_size)
    cut = patches.reshape(len(patches), d, h, w, -1, z, y, x)
    return cut.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(len(patches), -1, d * z, h * y, w * x)


def sincos_positions(grid: Size, width: int) -> Tensor:
    """Fixed positions of a grid's N patches: float32 (N, width).

    Each axis has a sixth of the channels for sines and a sixth for cosines, in the order H, W, D (the
    reference's y, x, z), computed in float32 as in the reference; channels left over from a width not
    divisible by 6 are 0.
    """
    import torch

    frequencies = width // 6
    omega = 1 / POSITION_TEMPERATURE ** (torch.arange(frequencies, dtype=torch.float32) / frequencies)
    numbers = [torch.arange(n, dtype=torch.float32) for n in edges(grid)]
    axes = torch.meshgrid(numbers, indexing="ij")
    depth, height, across = (axis.reshape(-1, 1) * omega for axis in axes)
    waves = [wave(angle) for angle in (height, across, depth) for wave in (torch.sin, torch.cos)]
    positions = torch.zeros(len(depth), width)
    positions[:, : 6 * frequencies] = torch.cat(waves, dim=1)
    return positions


def resize_positions(positions: Tensor, trained: Size, grid: Size) -> Tensor:
    """Positions of a `grid` of N patches from those of the `trained` grid, (trained N, width) -> (N, width).

    Trilinear interpolation between patch centres, as in the reference; unchanged for the trained grid.
    """
    if edges(grid) == edges(trained):
        return positions
    import torch.nn.functional as F

    field = positions.T.reshape(1, -1, *edges(trained))
    resized = F.interpolate(field.float(), size=edges(grid), mode="trilinear", align_corners=False)
    return resized.flatten(2)[0].T.to(positions.dtype)
