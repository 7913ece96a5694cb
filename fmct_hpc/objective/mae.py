"""The masked autoencoder's loss (He et al. 2022, section 3)."""

import torch
from torch import Tensor

TARGET_EPS = 1e-6
"""Added to a patch's variance: air is constant, and its variance 0 (as in MAE's published code)."""


def normalise_patches(patches: Tensor) -> Tensor:
    """Each patch (last dimension) to mean 0 and variance 1 (He et al. 2022, "Reconstruction target")."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + TARGET_EPS).sqrt()


def mae_loss(predicted: Tensor, target: Tensor, keep: Tensor) -> Tensor:
    """Mean squared error over the masked patches only, a float32 scalar.

    predicted, target: (B, N, P); keep: int64 (B, n), the visible patches, which do not count.
    """
    error = (predicted.float() - target.float()).square().mean(dim=-1)
    masked = torch.ones_like(error).scatter(1, keep, 0.0)
    return (error * masked).sum() / masked.sum()
