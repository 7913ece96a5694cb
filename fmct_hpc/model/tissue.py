"""Which patches of a view are encoded where model.keep_tokens is below 1: those with the most tissue.

A view of a head is a third to a half air, which tells nothing. How many patches stay is fixed, so that shapes
are, and which ones is a function of the view alone.
"""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING

from fmct_hpc.fields import Size
from fmct_hpc.model.patches import grid_of, patchify

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = 255
"""Values are counted in whole steps of 1/255, so that sums are exact, and the same in any order of adding and
on any device; a tie is then a tie everywhere."""


def kept_patches(patches: int, share: float) -> int:
    """How many of a view's `patches` are encoded: ceil(share · patches), at least 1."""
    return max(1, ceil(round(share * patches, 6)))  # 0.55 · 100 is 55.000000000000007


def tissue(views: Tensor, patch_size: Size) -> Tensor:
    """How much tissue each patch holds: (B, C, D, H, W), windowed to [0, 1], -> int64 (B, N).

    In the order of `patchify`. The sum over voxels and windows of round(255 · value), which ranks patches as
    the mean over the patch of the mean over windows does. A window gives 0 for air, and more for what is
    denser until it is saturated: in the default ones bone counts most, then blood, then brain; fat hardly
    does, and patches with little but air come last. An intensity shift, the same all over a view, changes the
    order by no more than rounding.
    """
    levels = (views.float() * LEVELS).round().sum(dim=1, keepdim=True)
    return patchify(levels.int(), patch_size).sum(dim=-1)


def most_tissue(views: Tensor, patch_size: Size, share: float) -> Tensor | None:
    """Numbers of the n = `kept_patches` patches with the most tissue, of equal ones those of lower numbers.

    views as `tissue` takes them. Returns int64 (B, n), ascending, or None where all N stay.
    """
    import torch

    patches = prod(grid_of(views.shape[2:], patch_size))
    n = kept_patches(patches, share)
    if n == patches:
        return None
    # No two are equal: the choice is the same whatever `topk` does with ties.
    ranked = tissue(views, patch_size) * patches - torch.arange(patches, device=views.device)
    return ranked.topk(n, dim=1).indices.sort(dim=1).values


def dropped_tissue(views: Tensor, patch_size: Size, share: float) -> Tensor:
    """Tissue in patches that are not encoded, and in all: float64 (2,), sums over views as `tissue` has them.

    Values count from each view's least, which is that of air whatever intensity shift was added. 0 where all
    patches are encoded.
    """
    import torch

    kept = most_tissue(views, patch_size, share)
    if kept is None:
        return torch.zeros(2, dtype=torch.float64, device=views.device)
    held = tissue(views - views.amin(dim=(1, 2, 3, 4), keepdim=True), patch_size).double()
    whole = held.sum()
    return torch.stack([whole - held.gather(1, kept).sum(), whole])
