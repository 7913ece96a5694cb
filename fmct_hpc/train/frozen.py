"""Networks without gradients, stored as the student is: whole, or partitioned under ZeRO stage 3."""

from typing import Any, Generic, TypeVar

import deepspeed
import torch
from torch import nn

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.execution import set_execution
from fmct_hpc.train.engine import autocast_section, offload_section
from fmct_hpc.train.process_group import RankInfo

Network = TypeVar("Network", bound=nn.Module)


class Frozen(Generic[Network]):
    """A module for inference in the run's precision; updates act on the rank's own slices."""

    def __init__(self, module: Network, config: TrainConfig, rank_info: RankInfo) -> None:
        """Take over `module` with its weights."""
        self.module = module
        module.to(rank_info.device).requires_grad_(False).eval()
        set_execution(module, config.engine)
        self.parameters = dict(module.named_parameters())
        """Parameters by name; `partition.own_part` gives what this rank holds of one."""
        self._forward: nn.Module = _partitioned(module, config) if config.engine.zero_stage == 3 else module
        self._device_type = rank_info.device.type
        self._autocast = config.engine.precision == "bf16"

    @torch.no_grad()
    def run(self, *inputs: Any) -> Any:
        """The module's forward pass; under stage 3 all ranks must call it."""
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._autocast):
            return self._forward(*inputs)


def _partitioned(module: nn.Module, config: TrainConfig) -> nn.Module:
    """Wrap the module in a stage 3 engine without optimizer, which gathers each layer only while it runs."""
    sections = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {
            "stage": 3,
            **{name: place for name, place in offload_section(config).items() if name == "offload_param"},
            # Nothing may stay gathered after the forward pass: it would miss the next update.
            "stage3_param_persistence_threshold": 0,
            "stage3_max_live_parameters": 0,
            "stage3_max_reuse_distance": 0,
        },
        **autocast_section(config),
    }
    engine, *_ = deepspeed.initialize(model=module, config=sections, dist_init_required=False)
    engine.eval()
    return engine
