"""The 3D vision transformer (Dosovitskiy et al. 2021), with register tokens (Darcet et al. 2024)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fmct_hpc.model.block import Block, Blocks, initialise
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.inputs import Standardise
from fmct_hpc.model.patches import patchify, resize_positions, sincos_positions

LAST_NORM_EPS = 1e-6
"""Of the LayerNorm behind the last block: the reference's."""


class VisionTransformer(nn.Module):
    """Encodes a view, or only some of its patches, into tokens: CLS, registers, patches."""

    positions: Tensor

    def __init__(self, model: ModelConfig, channels: int, view_size: int) -> None:
        """Build it for views of `view_size`³ voxels and `channels` windows."""
        super().__init__()
        self.patch_size = model.patch_size
        self.grid = view_size // model.patch_size
        """Patches along an edge of the views it is trained on."""
        self.patches = self.grid**3
        self.prefix = 1 + model.register_tokens
        """Tokens before the patches."""
        self.standardise = Standardise(model.input_mean, model.input_std, channels)
        # A Linear over flattened patches is a convolution whose stride is its kernel, and faster on a CPU.
        self.embedding = nn.Linear(channels * model.patch_size**3, model.width)
        self.prefix_tokens = nn.Parameter(torch.empty(self.prefix, model.width))
        positions = sincos_positions(self.grid, model.width)
        if model.positions == "learned":
            self.positions = nn.Parameter(positions)
        else:  # computed from the sizes alone, so no checkpoint has to carry it
            self.register_buffer("positions", positions, persistent=False)
        self.blocks = Blocks(
            Block(model.width, model.heads, model.mlp_ratio, model.qkv_bias, model.layer_scale)
            for _ in range(model.depth)
        )
        self.norm = nn.LayerNorm(model.width, eps=LAST_NORM_EPS)
        initialise(self, model.initialisation)
        nn.init.normal_(self.prefix_tokens, std=0.02)

    def forward(
        self,
        views: Tensor,
        keep: Tensor | None = None,
        masked: tuple[Tensor, Tensor] | None = None,
        path_scales: Tensor | None = None,
    ) -> Tensor:
        """Encode views.

        views: (B, C, D, H, W), windowed to [0, 1], each edge a multiple of the patch; where the size is not
        the trained one, positions are interpolated. keep: int64 (B, n), numbers of the patches to encode, in
        the order of `patchify`; None: all N. Patches left out cost nothing and have no influence (He et al.
        2022, section 3). masked: bool (B, N) and a token (width,) that takes the place of those patches'
        embeddings (Zhou et al. 2022, section 3.1). path_scales: (B, depth, 2), see `Block`; None: 1. Returns
        (B, prefix + n, width): CLS, registers, patches in `keep`'s order.
        """
        return self.norm(self.blocks(self._embed(views, keep, masked), path_scales))

    def at_blocks(self, views: Tensor, numbers: Sequence[int]) -> list[Tensor]:
        """Tokens behind the blocks `numbers`, from 0, of views as in `forward`: (B, prefix + N, width) each.

        The last LayerNorm is applied to each, as DINOv2's `get_intermediate_layers` does by default.
        """
        found: dict[int, Tensor] = {}
        x = self._embed(views, None, None)
        for number, block in enumerate(self.blocks[: max(numbers) + 1]):
            x = block(x)
            if number in numbers:
                found[number] = self.norm(x)
        return [found[number] for number in numbers]

    def _embed(self, views: Tensor, keep: Tensor | None, masked: tuple[Tensor, Tensor] | None) -> Tensor:
        """What the first block reads: prefix tokens and embedded patches with their positions."""
        patches = patchify(self.standardise(views), self.patch_size)
        d, h, w = (edge // self.patch_size for edge in views.shape[2:])
        positions = resize_positions(self.positions, self.grid, (d, h, w)).expand(patches.shape[0], -1, -1)
        if keep is not None:
            patches, positions = take_tokens(patches, keep), take_tokens(positions, keep)
        embedded = self.embedding(patches)
        if masked is not None:
            where, token = masked
            embedded = torch.where(where.unsqueeze(-1), token.to(embedded.dtype), embedded)
        embedded = embedded + positions.to(patches.dtype)
        return torch.cat([self.prefix_tokens.expand(embedded.shape[0], -1, -1), embedded], dim=1)


def take_tokens(tokens: Tensor, numbers: Tensor) -> Tensor:
    """tokens (B, N, C) at numbers, int64 (B, n) -> (B, n, C)."""
    return tokens.gather(1, numbers.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
