"""Selection of a view's patches for model.keep_tokens below 1: those with the most tissue.

A third to a half of a head's view is air, without information. The number of kept patches is fixed, so that
shapes are fixed, and the selection depends only on the view.
"""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING

from fmct_hpc.fields import Size
from fmct_hpc.model.patches import grid_of, patchify

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = 255
"""Values are rounded to multiples of 1/255, so that sums are exact for any order of addition and any device,
and ties are the same everywhere."""


def kept_patches(patches: int, share: float) -> int:
    """Number of encoded patches out of `patches`: ceil(share · patches), at least 1."""
    return max(1, ceil(round(share * patches, 6)))  # 0.55 · 100 is 55.000000000000007


def tissue(views: Tensor, patch_size: Size) -> Tensor:
    """Amount of tissue in each patch: (B, C, D, H, W), windowed to [0, 1] -> int64 (B, N).

    In the order of `patchify`. The sum over voxels and windows of round(255 · value), which ranks patches
    like the mean over voxels and windows. Air is 0 in a window, and denser tissue has greater values up to
    saturation: in the default windows bone counts most, then blood, then brain; fat hardly counts, and
    patches of air are last. A constant intensity shift of a view changes the order only by rounding.
    """
    levels = (views.float() * LEVELS).round().sum(dim=1, keepdim=True)
    return patchify(levels.int(), patch_size).sum(dim=-1)


def most_tissue(views: Tensor, patch_size: Size, share: float) -> Tensor | None:
    """Numbers of the n = `kept_patches` patches with the most tissue; ties go to lower numbers.

    views: as for `tissue`. Returns int64 (B, n), ascending, or None if all N are kept.
    """
    import torch

    patches = prod(grid_of(views.shape[2:], patch_size))
    n = kept_patches(patches, share)
    if n == patches:
        return None
    # No two values are equal, so the result does not depend on how `topk` breaks ties.
    ranked = tissue(views, patch_size) * patches - torch.arange(patches, device=views.device)
    return ranked.topk(n, dim=1).indices.sort(dim=1).values


def dropped_tissue(views: Tensor, patch_size: Size, share: float) -> Tensor:
    """Tissue in patches that are not encoded, and in all patches: float64 (2,), sums of `tissue` over views.

    Values are relative to each view's minimum, which is air for any intensity shift. 0 if all patches are
    encoded.
    """
    import torch

    kept = most_tissue(views, patch_size, share)
    if kept is None:
        return torch.zeros(2, dtype=torch.float64, device=views.device)
    amounts = tissue(views - views.amin(dim=(1, 2, 3, 4), keepdim=True), patch_size).double()
    total = amounts.sum()
    return torch.stack([total - amounts.gather(1, kept).sum(), total])
