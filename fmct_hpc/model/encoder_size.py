"""How many parameters an encoder has and what it computes, measured: it is built without memory for that."""

from functools import cache
from typing import TYPE_CHECKING

from fmct_hpc.fields import Size, edges
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.kinds import build_encoder

if TYPE_CHECKING:
    from fmct_hpc.config import TrainConfig


class EncoderSize:
    """Counts of an encoder; a kind with a closed form has a class derived from this one."""

    def prefix_tokens(self, model: ModelConfig) -> int:
        """Tokens before the patches."""
        return 1

    def parameters(self, config: "TrainConfig") -> int:
        """Trained parameters."""
        return measured(config.model, len(config.data.windows), config.data.view_size)[0]

    def flops(self, config: "TrainConfig", view_size: Size, patches: int) -> int:
        """Operations of the forward pass over a view, of which `patches` are encoded."""
        return measured(config.model, len(config.data.windows), view_size)[1]

    def embedding_flops(self, config: "TrainConfig", patches: int) -> int:
        """Those of them whose input needs no gradient; 0 counts their backward pass as any other."""
        return 0

    def least_parameters(self, model: ModelConfig, channels: int) -> float:
        """A bound that takes no more than numbers, for files that may describe anything."""
        return float(model.width * model.depth)


@cache
def measured(model: ModelConfig, channels: int, view_size: Size) -> tuple[int, int]:
    """Parameters, and operations of one view's forward pass as torch.utils.flop_counter has them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        encoder = build_encoder(model, channels, view_size)
        encoder(torch.empty(1, channels, *edges(view_size)))
    return sum(parameter.numel() for parameter in encoder.parameters()), counter.get_total_flops()
