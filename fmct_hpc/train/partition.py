"""A rank's part of each parameter under each ZeRO stage: what it keeps, updates and saves."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from fmct_hpc.train.pieces import Piece

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


def own_part(parameter: nn.Parameter) -> Tensor:
    """This rank's values: under stage 3 a flat slice (`ds_tensor`, padded), else the whole parameter."""
    return parameter.ds_tensor.data if hasattr(parameter, "ds_tensor") else parameter.data


def own_piece(key: str, parameter: Any) -> Piece:
    """`own_part` without padding, as a piece."""
    if not hasattr(parameter, "ds_tensor"):
        return Piece(key, tuple(parameter.shape), 0, parameter.detach().view(-1), replicated=True)
    start, numel = _partition(parameter)
    return Piece(key, tuple(parameter.ds_shape), start, parameter.ds_tensor.detach().view(-1)[:numel])


class Master(NamedTuple):
    """The slice of a parameter that this rank's optimizer updates, in float32."""

    name: str
    shape: tuple[int, ...]
    """Shape of the whole parameter."""
    start: int
    """Start of the slice in the flattened parameter."""
    tensor: Tensor
    """Tensor that contains the slice, maybe with others; the key of the optimizer's state."""
    offset: int
    numel: int
    replicated: bool

    def piece(self, kind: str, tensor: Tensor) -> Piece:
        """The slice of `tensor`, which is `self.tensor` or its optimizer state."""
        values = tensor.detach().view(-1)[self.offset : self.offset + self.numel]
        return Piece(f"{kind}/{self.name}", self.shape, self.start, values, self.replicated)


def masters(engine: "DeepSpeedEngine") -> Iterator[Master]:
    """The slices that this rank's optimizer updates, by parameter.

    Stage 0: every whole parameter. Stages 1 and 2: each group of parameters is concatenated and divided
    equally among the ranks, so a parameter may be on several ranks, or not on this one. Stage 3: each
    parameter is divided equally, the last slice padded.
    """
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    if stage == 0:
        for parameter, name in names.items():
            yield Master(name, tuple(parameter.shape), 0, parameter, 0, parameter.numel(), True)
    elif stage < 3:
        for parameter, name in names.items():
            here = parameter._hp_mapping  # None if all of it is on other ranks
            if here is not None:
                flat = optimizer.single_partition_of_fp32_groups[here.param_group_index]
                start, offset = here.lp_fragment_address.start, here.hp_fragment_address.start
                numel = here.lp_fragment_address.numel
                yield Master(name, tuple(parameter.shape), start, flat, offset, numel, False)
    else:
        for group, flat in zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True):
            offset = 0
            for parameter in group:
                start, numel = _partition(parameter)
                yield Master(names[parameter], tuple(parameter.ds_shape), start, flat, offset, numel, False)
                offset += parameter.partition_numel()


def _partition(parameter: Any) -> tuple[int, int]:
    """Start and length of this rank's slice of a parameter under stage 3, without padding."""
    size, whole = parameter.partition_numel(), parameter.ds_numel
    start = min(torch.distributed.get_rank() * size, whole)
    return start, min(size, whole - start)


def copy_masters_to_weights(engine: "DeepSpeedEngine") -> None:
    """Copy the masters to the weights that the forward pass reads; every rank must call it."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    if stage in (1, 2):
        optimizer.update_lp_params()
    elif stage == 3:
        optimizer.checkpoint_event_prologue()
        with torch.no_grad():
            flats = zip(
                optimizer.fp16_partitioned_groups_flat, optimizer.fp32_partitioned_groups_flat, strict=True
            )
            for working, master in flats:
                working.copy_(master)
        optimizer.checkpoint_event_epilogue()
