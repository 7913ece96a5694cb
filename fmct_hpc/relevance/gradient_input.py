"""Gradient times input (Shrikumar et al. 2017; Ancona et al. 2018, table 1), per patch."""

import torch
from torch import Tensor

from fmct_hpc.model.patches import patchify
from fmct_hpc.relevance.method_input import MethodInput


def gradient_input(inputs: MethodInput) -> Tensor:
    """Σ of ∂logit/∂voxel · voxel over each encoded patch, in units of the logit: (S, n), with sign.

    Voxels are windowed to [0, 1], so that air contributes 0. Since the patch embedding is linear, this equals
    the gradient with respect to a patch's token times the contribution of its voxels to it.
    """
    with torch.enable_grad():
        view = inputs.view.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(inputs.logits(view).sum(), view)
    return of_patches(inputs, gradient * inputs.view)


def of_patches(inputs: MethodInput, voxels: Tensor) -> Tensor:
    """Sums of voxels (S, C, D, H, W) over each encoded patch: (S, n)."""
    sums = patchify(voxels, inputs.model.patch_size).sum(dim=-1)
    return sums if inputs.kept is None else sums.gather(1, inputs.kept)
