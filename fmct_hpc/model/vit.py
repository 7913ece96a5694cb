"""The 3D vision transformer (Dosovitskiy et al. 2021), with register tokens (Darcet et al. 2024)."""

import torch
from torch import Tensor, nn

from fmct_hpc.config import ModelConfig
from fmct_hpc.model.block import NORM_EPS, Block, initialise
from fmct_hpc.model.patches import patchify, sincos_positions


class VisionTransformer(nn.Module):
    """Encodes a view, or only some of its patches, into tokens: CLS, registers, patches."""

    positions: Tensor

    def __init__(self, model: ModelConfig, channels: int, view_size: int) -> None:
        """Build it for views of `view_size`³ voxels and `channels` windows."""
        super().__init__()
        self.patch_size = model.patch_size
        grid = view_size // model.patch_size
        self.patches = grid**3
        self.prefix = 1 + model.register_tokens
        """Tokens before the patches."""
        # A Linear over flattened patches is a convolution whose stride is its kernel, and faster on a CPU.
        self.embedding = nn.Linear(channels * model.patch_size**3, model.width)
        self.prefix_tokens = nn.Parameter(torch.empty(self.prefix, model.width))
        # Computed from the sizes alone, so no checkpoint has to carry it.
        self.register_buffer("positions", sincos_positions(grid, model.width), persistent=False)
        self.blocks = nn.ModuleList(
            Block(model.width, model.heads, model.mlp_ratio) for _ in range(model.depth)
        )
        self.norm = nn.LayerNorm(model.width, eps=NORM_EPS)
        self.apply(initialise)
        nn.init.normal_(self.prefix_tokens, std=0.02)

    def forward(self, views: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode views.

        views: (B, C, S, S, S), windowed to [0, 1]. keep: int64 (B, n), numbers of the patches to encode,
        in the order of `patchify`; None: all N. Patches left out cost nothing and have no influence (He
        et al. 2022, section 3). Returns (B, prefix + n, width): CLS, registers, patches in `keep`'s order.
        """
        patches = patchify(views, self.patch_size)
        positions = self.positions.expand(len(patches), -1, -1)
        if keep is not None:
            patches, positions = take_tokens(patches, keep), take_tokens(positions, keep)
        embedded = self.embedding(patches) + positions.to(patches.dtype)
        tokens = torch.cat([self.prefix_tokens.expand(len(embedded), -1, -1), embedded], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


def take_tokens(tokens: Tensor, numbers: Tensor) -> Tensor:
    """tokens (B, N, C) at numbers, int64 (B, n) -> (B, n, C)."""
    return tokens.gather(1, numbers.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
