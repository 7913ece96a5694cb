"""How blocks are run: compiled, or computed twice to save memory. What they compute stays the same."""

from torch import nn

from fmct_hpc.config import EngineConfig
from fmct_hpc.model.block import Blocks
from shards.errors import FmctError


def set_execution(module: nn.Module, engine: EngineConfig) -> None:
    """Run all stacks of blocks in `module` as `engine` says; names and weights do not change."""
    for stack in module.modules():
        if isinstance(stack, Blocks):
            stack.checkpointing = engine.activation_checkpointing
            if engine.compile:
                for block in stack:
                    block.compile()


def require_compiler(engine: EngineConfig) -> None:
    """Raise FmctError where `engine` asks for compilation and this machine has no C++ compiler."""
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
