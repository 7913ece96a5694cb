"""Means over the volumes of all ranks, for statistics of the batch that a loss is a function of."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many ranks there are; 1 where no process group was joined."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean_over_ranks(own: Tensor) -> Tensor:
    """The mean of all ranks' tensors, which have one shape; all ranks must call it, and go backward.

    Where every rank computes one loss from it, the mean of the ranks' gradients, which training takes, is the
    gradient of that loss in one process.
    """
    mean: Tensor = _MeanOverRanks.apply(own)
    return mean


class _MeanOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return _mean(own)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _mean(gradient)


def _mean(tensor: Tensor) -> Tensor:
    mean = tensor.contiguous().clone()
    if dist.is_initialized():
        dist.all_reduce(mean)
    return mean / world_size()
