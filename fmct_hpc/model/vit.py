"""The 3D vision transformer (Dosovitskiy et al. 2021), with register tokens (Darcet et al. 2024)."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from fmct_hpc.fields import Size, edges
from fmct_hpc.model.backbone import Backbone
from fmct_hpc.model.block import Block, Blocks, initialise
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.patches import grid_of, patchify, resize_positions, sincos_positions
from fmct_hpc.model.rope import patch_coordinates, rotation
from fmct_hpc.model.tissue import most_tissue

LAST_NORM_EPS = 1e-6
"""Epsilon of the LayerNorm after the last block, as in the reference."""


class VisionTransformer(Backbone):
    """Encodes a view, or some of its patches, into tokens: CLS, registers, patches."""

    takes_path_scales = True
    positions: Tensor | None
    """Added to the embedded patches, (N, width); None with rotary positions."""

    def __init__(self, model: ModelConfig, channels: int, view_size: Size) -> None:
        """Build it for views of `view_size` voxels, an edge or (D, H, W), and `channels` windows."""
        super().__init__(model, channels, view_size)
        self.keep_tokens = model.keep_tokens
        self.prefix = 1 + model.register_tokens
        # A Linear on flattened patches equals a convolution with stride = kernel, and is faster on a CPU.
        self.embedding = nn.Linear(channels * prod(edges(model.patch_size)), model.width)
        self.prefix_tokens = nn.Parameter(torch.empty(self.prefix, model.width))
        positions = None if model.positions == "rope" else sincos_positions(self.grid, model.width)
        if positions is not None and model.positions == "learned":
            self.positions = nn.Parameter(positions)
        else:  # computed from the sizes, so not in checkpoints
            self.register_buffer("positions", positions, persistent=False)
        self.head_width = model.width // model.heads
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
        rope_boxes: Tensor | None = None,
    ) -> Tensor:
        """Encode views.

        views: (B, C, D, H, W), windowed to [0, 1], each edge a multiple of the patch; for other sizes than in
        training, added positions are interpolated. keep: int64 (B, n), numbers of the patches to encode, in
        the order of `patchify`; None: as in `kept`. Other patches cost nothing and have no influence (He et
        al. 2022, section 3). masked: bool (B, n), and the token (width,) that replaces those patches'
        embeddings (Zhou et al. 2022, section 3.1). path_scales: (B, depth, 2), see `Block`; None: 1.
        rope_boxes: (depth, 2, 3), factors and offsets of each block's coordinates; None: 1 and 0. Returns
        (B, prefix + n, width): CLS, registers, patches in the order of `keep`.
        """
        keep = self.kept(views) if keep is None else keep
        turns = self.turns(views, keep, rope_boxes)
        return self.norm(self.blocks(self.embed_patches(views, keep, masked), path_scales, turns))

    def kept(self, views: Tensor) -> Tensor | None:
        """Numbers of the encoded patches of views as in `forward`: int64 (B, n); None: all N.

        The share `keep_tokens` of each view with the most tissue (`most_tissue`), ascending.
        """
        return most_tissue(views, self.patch_size, self.keep_tokens)

    def at_blocks(self, views: Tensor, numbers: Sequence[int], keep: Tensor | None = None) -> list[Tensor]:
        """Tokens after the blocks `numbers`, from 0, of views as in `forward`: (B, prefix + n, width) each.

        keep: as in `forward`. The last LayerNorm is applied to each, as by default in DINOv2's
        `get_intermediate_layers`.
        """
        tokens: dict[int, Tensor] = {}
        keep = self.kept(views) if keep is None else keep
        x, turns = self.embed_patches(views, keep, None), self.turns(views, keep, None)
        for number, block in enumerate(self.blocks[: max(numbers) + 1]):
            x = block(x, None, None if turns is None else turns[number])
            if number in numbers:
                tokens[number] = self.norm(x)
        return [tokens[number] for number in numbers]

    def embed_patches(
        self, views: Tensor, keep: Tensor | None, masked: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """The first block's input: prefix tokens and embedded patches with positions."""
        patches = patchify(self.standardise(views), self.patch_size)
        embedded = self.embedding(patches if keep is None else take_tokens(patches, keep))
        if masked is not None:
            where, token = masked
            embedded = torch.where(where.unsqueeze(-1), token.to(embedded.dtype), embedded)
        if self.positions is not None:
            positions = resize_positions(self.positions, self.grid, grid_of(views.shape[2:], self.patch_size))
            positions = positions.to(patches.dtype).expand(patches.shape[0], -1, -1)
            embedded = embedded + (positions if keep is None else take_tokens(positions, keep))
        return torch.cat([self.prefix_tokens.expand(embedded.shape[0], -1, -1), embedded], dim=1)

    def turns(self, views: Tensor, keep: Tensor | None, boxes: Tensor | None) -> list[Tensor] | None:
        """Each block's rotation of queries and keys, from `rope.rotation`; None without rotary positions."""
        if self.positions is not None:
            return None
        coordinates = patch_coordinates(grid_of(views.shape[2:], self.patch_size), views.device)
        if keep is not None:
            coordinates = coordinates[keep].unsqueeze(1)  # the same for all heads
        if boxes is None:
            return [rotation(coordinates, self.head_width)] * len(self.blocks)
        return [rotation(coordinates * factor + offset, self.head_width) for factor, offset in boxes]


def take_tokens(tokens: Tensor, numbers: Tensor) -> Tensor:
    """tokens (B, N, C) at numbers, int64 (B, n) -> (B, n, C)."""
    return tokens.gather(1, numbers.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
