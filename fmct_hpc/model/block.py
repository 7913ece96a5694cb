"""The pre-norm transformer block of encoder and decoder."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fmct_hpc.model.rope import rotate

NORM_EPS = 1e-5
"""Epsilon of LayerNorms in blocks and decoder, as in the reference (`nn.LayerNorm(width)`)."""


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.projection = nn.Linear(width, width)

    def queries_keys_values(self, x: Tensor, turns: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, width) -> three of (B, heads, T, width / heads); turns: see `rope.rotate`, or None."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if turns is not None:
            query, key = rotate(query, turns), rotate(key, turns)
        return query, key, value

    def forward(self, x: Tensor, turns: Tensor | None = None) -> Tensor:
        """(B, T, width) -> (B, T, width); turns: see `queries_keys_values`."""
        query, key, value = self.queries_keys_values(x, turns)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.projection(attended.transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """A learned factor per channel (Touvron et al. 2021, "Going deeper with Image Transformers")."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return x * self.factor


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)) (Dosovitskiy et al. 2021, equations 2 and 3)."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, qkv_bias: bool, layer_scale: float | None = None
    ) -> None:
        super().__init__()
        hidden = round(width * mlp_ratio)
        self.attention_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = Attention(width, heads, qkv_bias)
        self.attention_scale = LayerScale(width, layer_scale) if layer_scale else nn.Identity()
        self.mlp_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.mlp_scale = LayerScale(width, layer_scale) if layer_scale else nn.Identity()

    def forward(self, x: Tensor, path_scales: Tensor | None = None, turns: Tensor | None = None) -> Tensor:
        """(B, T, width) -> (B, T, width).

        path_scales: (B, 2), factors of each sample's two branches; turns: see `Attention`.
        """
        attended = self.attention_scale(self.attention(self.attention_norm(x), turns))
        if path_scales is not None:
            attended = attended * path_scales[:, 0, None, None].to(attended.dtype)
        x = x + attended
        changed = self.mlp_scale(self.mlp(self.mlp_norm(x)))
        if path_scales is not None:
            changed = changed * path_scales[:, 1, None, None].to(changed.dtype)
        return x + changed


class Blocks(nn.ModuleList):
    """A stack of blocks."""

    checkpointing = False
    """Keep only a block's input, and recompute the block in the backward pass."""

    def forward(
        self, x: Tensor, path_scales: Tensor | None = None, turns: Sequence[Tensor] | None = None
    ) -> Tensor:
        """(B, T, width) -> (B, T, width); path_scales: (B, blocks, 2); turns: one per block; see `Block`."""
        for number, block in enumerate(self):
            scales = None if path_scales is None else path_scales[:, number]
            turn = None if turns is None else turns[number]
            if self.checkpointing and torch.is_grad_enabled():
                # Blocks draw no random numbers, so no generator state needs restoring.
                x = checkpoint(block, x, scales, turn, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, scales, turn)
        return x


def initialise(module: nn.Module, how: Literal["fan_in", "fixed"]) -> None:
    """Draw the weights of all linear layers in `module`; biases are 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            initialise_weight(layer.weight, how)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def initialise_weight(weight: Tensor, how: Literal["fan_in", "fixed"]) -> None:
    """Draw a weight (outputs, inputs).

    fan_in: uniform within ±1/√inputs, standard deviation 1/√(3 inputs): PyTorch's default for linear layers
    and convolutions (He et al. 2015 with a = √5), which the reference's blocks and prototypes use. fixed: a
    normal with standard deviation 0.02, truncated at ±2, as in facebookresearch/dino. Both are about equal at
    width 768.
    """
    if how == "fixed":
        nn.init.trunc_normal_(weight, std=0.02)
    else:
        bound = weight.shape[1] ** -0.5
        nn.init.uniform_(weight, -bound, bound)
