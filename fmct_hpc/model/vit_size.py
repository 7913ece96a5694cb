"""Parameters and operations of a vision transformer in closed form."""

from math import prod
from typing import TYPE_CHECKING

from fmct_hpc.fields import Size, edges
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.encoder_size import EncoderSize
from fmct_hpc.model.patches import grid_of

if TYPE_CHECKING:
    from fmct_hpc.config import TrainConfig


class VitSize(EncoderSize):
    """Counts of `fmct_hpc.model.vit.VisionTransformer`."""

    def prefix_tokens(self, model: ModelConfig) -> int:
        """CLS and registers."""
        return 1 + model.register_tokens

    def parameters(self, config: "TrainConfig") -> int:
        """Parameters of embedding, tokens, positions, blocks and the last norm."""
        model = config.model
        places = prod(grid_of(config.data.view_size, model.patch_size))
        positions = places * model.width if model.positions == "learned" else 0
        return (
            (patch_values(config) + 1) * model.width
            + self.prefix_tokens(model) * model.width
            + positions
            + model.depth * block_parameters(model, model.width, model.layer_scale is not None)
            + 2 * model.width
        )

    def flops(self, config: "TrainConfig", view_size: Size, patches: int) -> int:
        """Operations of the encoded patches, for any view size."""
        model, tokens = config.model, self.prefix_tokens(config.model) + patches
        return self.embedding_flops(config, patches) + model.depth * block_flops(model, model.width, tokens)

    def embedding_flops(self, config: "TrainConfig", patches: int) -> int:
        """Operations of the patch embedding."""
        return 2 * patches * patch_values(config) * config.model.width

    def min_parameters(self, model: ModelConfig, channels: int) -> float:
        """Per block, attention has 4 width² weights and the MLP 2 mlp_ratio width²."""
        embedding = channels * prod(edges(model.patch_size)) + model.register_tokens
        return model.width * (embedding + model.depth * model.width * (4 + 2 * model.mlp_ratio))


def patch_values(config: "TrainConfig") -> int:
    """Number of values in a patch."""
    return len(config.data.windows) * prod(edges(config.model.patch_size))


def block_parameters(model: ModelConfig, width: int, layer_scale: bool) -> int:
    """Parameters of a transformer block."""
    hidden = round(width * model.mlp_ratio)
    attention = 3 * width * width + 3 * width * model.qkv_bias + (width + 1) * width
    mlp = (width + 1) * hidden + (hidden + 1) * width
    return attention + mlp + 2 * 2 * width + 2 * width * layer_scale


def block_flops(model: ModelConfig, width: int, tokens: int) -> int:
    """Operations of a block: linear layers, and attention's two products over all pairs of tokens."""
    hidden = round(width * model.mlp_ratio)
    return 2 * tokens * (4 * width * width + 2 * width * hidden) + 2 * 2 * tokens * tokens * width
