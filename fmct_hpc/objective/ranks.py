"""Sums, means and rows over all ranks; over this process only, without a process group."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_reduce(tensor: Tensor, operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> None:
    """Reduce `tensor` over all ranks, in place and without gradient; all ranks must call it."""
    if dist.is_initialized():
        dist.all_reduce(tensor, operation)


def gathered(own: Tensor) -> list[Tensor]:
    """All ranks' tensors of the same shape, by rank, without gradient; all ranks must call it."""
    if not dist.is_initialized():
        return [own]
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, own.contiguous())
    return everyone


def mean_over_ranks(own: Tensor) -> Tensor:
    """The mean of all ranks' tensors of the same shape; all ranks must call it and run backward.

    If every rank computes the same loss from it, the mean of the ranks' gradients, which training uses,
    equals the gradient of that loss in one process.
    """
    apply: Callable[[Tensor], Tensor] = _MeanOverRanks.apply
    return apply(own)


class _MeanOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return _mean(own)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _mean(gradient)


def joined(own: Tensor) -> tuple[Tensor, int]:
    """(G, B, width) of every rank -> (G, ranks · B, width), and the index of this rank's first row.

    Gradients return to the rank of each row; all ranks must call it, with equal B, and run backward.
    """
    apply: Callable[[Tensor], Tensor] = _Joined.apply
    return apply(own), dist.get_rank() * own.shape[1] if dist.is_initialized() else 0


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        if not dist.is_initialized():
            return own.clone()
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        if not dist.is_initialized():
            return gradient
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size(), dim=1)[dist.get_rank()]


def _mean(tensor: Tensor) -> Tensor:
    mean = tensor.contiguous().clone()
    all_reduce(mean)
    return mean / world_size()
