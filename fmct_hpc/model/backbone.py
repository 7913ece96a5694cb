"""The interface of encoders that are pretrained: from views to tokens, one a patch of a grid."""

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
    """An encoder whose layers are a stack of blocks; listed in kinds.py.

    A class derived from it sets `blocks`, which activation checkpointing, compilation and learning rates by
    layer act on, and gives `embed` and `tokens_of`; or, where blocks need more than the embedded view,
    `forward` and `at_blocks`. Weights with `token` or `positions` in their names, and vectors, have no weight
    decay.
    """

    blocks: Blocks
    keep_tokens = 1.0
    """Share of a view's patches that `kept` keeps."""

    def __init__(self, model: "ModelConfig", channels: int, view_size: Size) -> None:
        """Of views of `view_size` voxels, an edge or (D, H, W), and `channels` windows."""
        super().__init__()
        self.patch_size = model.patch_size
        """Voxels of a patch: an edge or (D, H, W)."""
        self.grid = grid_of(view_size, model.patch_size)
        """Patches along (D, H, W) of the views it is trained on."""
        self.patches = prod(self.grid)
        self.prefix = 1
        """Tokens before the patches, the CLS token first; 0 without (`EncoderKind.has_cls`)."""
        self.width, self.depth = model.width, model.depth
        self.standardise = Standardise(model.input_mean, model.input_std, channels)

    def embed(self, views: Tensor) -> Tensor:
        """What the first block reads, of any shape, of views as in `forward`."""
        raise NotImplementedError

    def tokens_of(self, x: Tensor) -> Tensor:
        """Tokens (B, prefix + N, width) of what a block gives; patches in C order of (D, H, W)."""
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

        Returns (B, prefix + n, width). What an encoder does not follow by its `EncoderKind` is None:
        keep: int64 (B, n), numbers of the patches to encode, all by default; masked: bool (B, n) and a token
        (width,) in the place of those patches; path_scales: (B, depth, 2), factors of the blocks' branches;
        rope_boxes: (depth, 2, 3), of rotary positions.
        """
        return self.tokens_of(self.blocks(self.embed(views), path_scales))

    def at_blocks(self, views: Tensor, numbers: Sequence[int], keep: Tensor | None = None) -> list[Tensor]:
        """Tokens (B, prefix + n, width) behind each block in `numbers`, from 0; views as in `forward`."""
        found: dict[int, Tensor] = {}
        x = self.embed(views)
        for number, block in enumerate(self.blocks[: max(numbers) + 1]):
            x = block(x)
            if number in numbers:
                found[number] = self.tokens_of(x)
        return [found[number] for number in numbers]

    def kept(self, views: Tensor) -> Tensor | None:
        """Numbers of the patches that are encoded of views as in `forward`: int64 (B, n), None for all N."""
        return None

    def layer_of(self, name: str) -> int:
        """The embedding, with tokens and positions, is 0; the last norm is the head's (BEiT's appendix)."""
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        return self.depth + 1 if name.startswith("norm.") else 0


def summary(tokens: Tensor, prefix: int) -> Tensor:
    """A view's CLS token, or of an encoder without one the mean of its patches.

    tokens: (..., prefix + N, width) -> (..., width).
    """
    return tokens[..., 0, :] if prefix else tokens.mean(dim=-2)
