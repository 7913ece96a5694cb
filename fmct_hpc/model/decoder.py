"""The MAE decoder: from the visible patches' tokens to the voxels of all patches (He et al. 2022)."""

from math import prod

import torch
from torch import Tensor, nn

from fmct_hpc.fields import Size, edges
from fmct_hpc.model.block import NORM_EPS, Block, Blocks, initialise
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.patches import grid_of, sincos_positions


class MaeDecoder(nn.Module):
    """A narrow transformer over all patches; masked ones are a learned token."""

    positions: Tensor

    def __init__(self, model: ModelConfig, channels: int, view_size: Size) -> None:
        super().__init__()
        grid = grid_of(view_size, model.patch_size)
        self.prefix = 1 + model.register_tokens
        self.embedding = nn.Linear(model.width, model.decoder_width)
        self.mask_token = nn.Parameter(torch.empty(model.decoder_width))
        self.register_buffer("positions", sincos_positions(grid, model.decoder_width), persistent=False)
        self.prefix_positions = nn.Parameter(torch.zeros(self.prefix, model.decoder_width))
        self.blocks = Blocks(
            Block(model.decoder_width, model.decoder_heads, model.mlp_ratio, model.qkv_bias)
            for _ in range(model.decoder_depth)
        )
        self.norm = nn.LayerNorm(model.decoder_width, eps=NORM_EPS)
        self.voxels = nn.Linear(model.decoder_width, channels * prod(edges(model.patch_size)))
        initialise(self, model.initialisation)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, keep: Tensor, among: Tensor | None = None) -> Tensor:
        """Predict all patches, or those in `among`.

        tokens: the encoder's output for the patches `keep`, (B, prefix + v, width). keep: int64 (B, v), their
        positions in `among`. among: int64 (B, n), numbers of patches; others are ignored; None: all N.
        Returns (B, n, C · patch voxels), in the order of `among` or `patchify`.
        """
        positions = self.positions if among is None else self.positions[among]
        embedded = self.embedding(tokens)
        prefix, visible = embedded[:, : self.prefix], embedded[:, self.prefix :]
        places = self.mask_token.expand(len(tokens), positions.shape[-2], -1).to(visible.dtype)
        places = places.scatter(1, keep.unsqueeze(-1).expand_as(visible), visible)
        prefix = prefix + self.prefix_positions.to(prefix.dtype)
        x = self.blocks(torch.cat([prefix, places + positions.to(places.dtype)], dim=1))
        return self.voxels(self.norm(x[:, self.prefix :]))
