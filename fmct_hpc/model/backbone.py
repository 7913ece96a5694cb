"""The interface of encoders: from views to tokens, one per patch of a grid."""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from torch import Tensor

from fmct_hpc.fields import Size
from fmct_hpc.model.block import Blocks
from fmct_hpc.model.inputs import Standardise
from fmct_hpc.model.patches import grid_of
from fmct_hpc.model.tunable import Tunable

if TYPE_CHECKING:
    from fmct_hpc.model.config import ModelConfig


class Backbone(Tunable):
    """An encoder that is a stack of blocks; listed in kinds.py.

    A derived class sets `blocks`, on which activation checkpointing, compilation and layer-wise learning
    rates act, and implements `embed` and `tokens_of`, or, if blocks need more than the embedded view,
    `forward` and `at_blocks`. Weights with `token` or `positions` in their names, and vectors, have no weight
    decay.
    """

    blocks: Blocks
    keep_tokens = 1.0
    """Share of a view's patches that `kept` returns."""

    def __init__(self, model: "ModelConfig", channels: int, view_size: Size) -> None:
        """For views of `view_size` voxels, an edge or (D, H, W), with `channels` windows."""
        super().__init__()
        self.patch_size = model.patch_size
        """Edges of a patch in voxels: one, or (D, H, W)."""
        self.grid = grid_of(view_size, model.patch_size)
        """Patches along (D, H, W) of the training views."""
        self.patches = prod(self.grid)
        self.prefix = 1
        """Tokens before the patches, the CLS token first; 0 without a CLS token (`EncoderKind.has_cls`)."""
        self.width, self.depth = model.width, model.depth
        self.standardise = Standardise(model.input_mean, model.input_std, channels)

    def embed(self, views: Tensor) -> Tensor:
        """The first block's input, of any shape, from views as in `forward`."""
        raise NotImplementedError

    def tokens_of(self, x: Tensor) -> Tensor:
        """Tokens (B, prefix + N, width) from a block's output; patches in C order of (D, H, W)."""
        raise NotImplementedError

    def forward(
        self,
        views: Tensor,
        keep: Tensor | None = None,
        masked: tuple[Tensor, Tensor] | None = None,
        path_scales: Tensor | None = None,
        rope_boxes: Tensor | None = None,
    ) -> Tensor:
        """Encode views (B, C, D, H, W), windowed to [0, 1], each edge a multiple of the patch.

        Returns (B, prefix + n, width). Arguments that the `EncoderKind` does not support are None. keep:
        int64 (B, n), numbers of the patches to encode, all by default; masked: bool (B, n), and the token
        (width,) that replaces those patches; path_scales: (B, depth, 2), factors of the blocks' branches;
        rope_boxes: (depth, 2, 3), factors and offsets of rotary coordinates.
        """
        return self.tokens_of(self.blocks(self.embed(views), path_scales))

    def at_blocks(self, views: Tensor, numbers: Sequence[int], keep: Tensor | None = None) -> list[Tensor]:
        """Tokens (B, prefix + n, width) after each block in `numbers`, from 0; views as in `forward`."""
        tokens: dict[int, Tensor] = {}
        x = self.embed(views)
        for number, block in enumerate(self.blocks[: max(numbers) + 1]):
            x = block(x)
            if number in numbers:
                tokens[number] = self.tokens_of(x)
        return [tokens[number] for number in numbers]

    def kept(self, views: Tensor) -> Tensor | None:
        """Numbers of the encoded patches of views as in `forward`: int64 (B, n); None: all N."""
        return None

    def layer_of(self, name: str) -> int:
        """0 for embedding, tokens and positions; the last norm belongs to the head (BEiT's appendix)."""
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        return self.depth + 1 if name.startswith("norm.") else 0


def summary(tokens: Tensor, prefix: int) -> Tensor:
    """A view's CLS token, or the mean of its patch tokens for an encoder without one.

    tokens: (..., prefix + N, width) -> (..., width).
    """
    return tokens[..., 0, :] if prefix else tokens.mean(dim=-2)
