"""Parameters and operations of an encoder, measured on the meta device, without memory."""

from functools import cache
from typing import TYPE_CHECKING

from fmct_hpc.fields import Size, edges
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.kinds import build_encoder

if TYPE_CHECKING:
    from fmct_hpc.config import TrainConfig


class EncoderSize:
    """Counts of an encoder; kinds with a closed form derive a class from it."""

    def prefix_tokens(self, model: ModelConfig) -> int:
        """Tokens before the patches."""
        return 1

    def parameters(self, config: "TrainConfig") -> int:
        """Number of trained parameters."""
        return measured(config.model, len(config.data.windows), config.data.view_size)[0]

    def flops(self, config: "TrainConfig", view_size: Size, patches: int) -> int:
        """Operations of the forward pass over a view with `patches` encoded patches."""
        return measured(config.model, len(config.data.windows), view_size)[1]

    def embedding_flops(self, config: "TrainConfig", patches: int) -> int:
        """Operations of these whose input needs no gradient; 0: the backward pass counts as for others."""
        return 0

    def min_parameters(self, model: ModelConfig, channels: int) -> float:
        """A lower bound of parameters, computed from numbers only, to check untrusted files."""
        return float(model.width * model.depth)


@cache
def measured(model: ModelConfig, channels: int, view_size: Size) -> tuple[int, int]:
    """Parameters, and operations of one view's forward pass by torch.utils.flop_counter."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        encoder = build_encoder(model, channels, view_size)
        encoder(torch.empty(1, channels, *edges(view_size)))
    return sum(parameter.numel() for parameter in encoder.parameters()), counter.get_total_flops()
