"""Execution of blocks: compilation and activation checkpointing, which do not change results."""

import torch
from torch import nn

from fmct_hpc.engine_config import EngineConfig
from fmct_hpc.fields import device_name
from fmct_hpc.model.block import Blocks
from shards.caches import set_for_inductor
from shards.errors import FmctError


def set_execution(module: nn.Module, engine: EngineConfig) -> None:
    """Configure all stacks of blocks in `module` by `engine`; names and weights do not change."""
    if engine.compile:
        set_for_inductor()
    for stack in module.modules():
        if isinstance(stack, Blocks):
            stack.checkpointing = engine.activation_checkpointing
            if engine.compile:
                for block in stack:
                    block.compile()


def usable_device(name: str) -> torch.device:
    """The device cpu, gpu or gpu:N; raises FmctError where this machine or PyTorch does not have it."""
    try:
        device = torch.device(device_name(name).replace("gpu", "cuda"))
        torch.empty(1, device=device)
    except ValueError as error:
        raise FmctError(f"device {name}: {error}") from None
    except (RuntimeError, AssertionError):  # the latter from a PyTorch without CUDA
        usable = ", ".join(["cpu", *(f"gpu:{n}" for n in range(torch.cuda.device_count()))])
        raise FmctError(f"device {name}: not usable here, only {usable}; see `fmct doctor`") from None
    return device


def require_compiler(engine: EngineConfig) -> None:
    """Raise FmctError where engine.compile is set and this machine has no C++ compiler."""
    if not engine.compile:
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise FmctError(
            "engine.compile: no C++ compiler here; install g++, name one in CXX, or set engine.compile=false"
        ) from None
