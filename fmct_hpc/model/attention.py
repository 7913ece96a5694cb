"""Attention weights, which the blocks' fused attention does not return."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from fmct_hpc.model.backbone import Backbone
from fmct_hpc.model.block import Attention, Block
from fmct_hpc.model.patches import grid_of


def attention_weights(query: Tensor, key: Tensor) -> Tensor:
    """softmax(q·k / √d) (Vaswani et al. 2017, equation 1), in float32 at least: (B, heads, Q, T).

    query: (B, heads, Q, d), key: (B, heads, T, d), from `Attention.queries_keys_values`.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    scores = query.to(exact) @ key.to(exact).transpose(2, 3) / query.shape[-1] ** 0.5
    return scores.softmax(dim=-1)


@contextmanager
def explicit_attention(blocks: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Context in which these blocks compute attention with explicit weights, equivalent to the fused one.

    Yields a list to which a forward pass appends each block's weights, float32 (B, heads, T, T), in the order
    of the blocks. The blocks' outputs depend on them, so `torch.autograd.grad` gives their gradients.
    """
    kept_weights: list[Tensor] = []

    def by_weights(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(module, Attention)
        query, key, value = module.queries_keys_values(*inputs)
        weights = attention_weights(query, key)
        kept_weights.append(weights)
        attended = weights.to(value.dtype) @ value
        return module.projection(attended.transpose(1, 2).flatten(2))

    hooks = []
    for block in blocks:
        assert isinstance(block, Block)
        hooks.append(block.attention.register_forward_hook(by_weights))
    try:
        with _not_compiled():
            yield kept_weights
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def cls_attention(encoder: Backbone, views: Tensor) -> Tensor:
    """Attention of the last block's CLS token to the patches: (B, C, D, H, W) -> float32 (B, heads, grid).

    The patches' part of `attention_weights` over all tokens, as in Caron et al. 2021, figure 1; 0 for patches
    that are not encoded. Works under ZeRO stage 3, where every rank must call it.
    """
    captured: list[tuple[Tensor, ...]] = []
    kept = encoder.kept(views)

    def capture(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        captured.append(inputs)

    block = encoder.blocks[-1]
    assert isinstance(block, Block)
    last = block.attention
    hook = last.register_forward_pre_hook(capture)
    try:
        with _not_compiled():
            encoder(views, kept)
    finally:
        hook.remove()
    query, key, _ = last.queries_keys_values(*captured[0])
    weights = attention_weights(query[:, :, :1], key)[:, :, 0, encoder.prefix :]
    grid = grid_of(views.shape[2:], encoder.patch_size)
    return on_grid(weights, kept, prod(grid)).unflatten(-1, grid)


def _not_compiled() -> AbstractContextManager[Any]:
    """Context in which compiled blocks run as written: they would call no hooks."""
    # Nothing is compiled without torch._dynamo, whose import takes 1.2 s of CPU time.
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def on_grid(values: Tensor, kept: Tensor | None, patches: int) -> Tensor:
    """Values of the encoded patches, (B, ..., n), for all patches: (B, ..., patches), 0 for the others.

    kept: from `Backbone.kept`.
    """
    if kept is None:
        return values
    whole = values.new_zeros(*values.shape[:-1], patches)
    where = kept.reshape(len(kept), *[1] * (values.ndim - 2), -1).expand_as(values)
    return whole.scatter(-1, where, values)
