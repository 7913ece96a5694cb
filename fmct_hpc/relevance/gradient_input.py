"""Gradient times input (Shrikumar et al. 2017; Ancona et al. 2018, table 1), patch by patch."""

import torch
from torch import Tensor

from fmct_hpc.model.patches import patchify
from fmct_hpc.relevance.question import Question


def gradient_input(question: Question) -> Tensor:
    """Σ of ∂logit/∂voxel · voxel over each encoded patch, in units of the logit: (S, n), of either sign.

    Voxels are windowed to [0, 1], so that air counts as nothing. As the patch embedding is linear, this is
    the gradient with respect to a patch's token times what its voxels add to it.
    """
    with torch.enable_grad():
        view = question.view.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(question.logits(view).sum(), view)
    return of_patches(question, gradient * question.view)


def of_patches(question: Question, voxels: Tensor) -> Tensor:
    """Sums over the encoded patches of views' voxels (S, C, D, H, W): (S, n)."""
    sums = patchify(voxels, question.model.patch_size).sum(dim=-1)
    return sums if question.kept is None else sums.gather(1, question.kept)
