"""DeepSpeed's Muon optimizer, which its ZeRO optimizers import, without loading torch's compiler."""

import importlib
from contextlib import suppress

MODULE = "deepspeed.runtime.zero.muon.muon_optimizer"


def import_muon() -> None:
    """Import Muon with its functions uncompiled, if this version of DeepSpeed has it.

    DeepSpeed 0.19 imports it to compare its type with the optimizer's, which for us is always AdamW. Muon's
    functions, which no run calls then, are decorated with `deepspeed.runtime.compiler.compile`, so that torch
    loads torch._inductor and torch._dynamo: 2.4 s of CPU time in each rank.
    """
    with suppress(ImportError, AttributeError):
        from deepspeed.runtime import compiler

        compiled = compiler.compile
        compiler.compile = lambda: lambda function: function
        try:
            importlib.import_module(MODULE)
        finally:
            compiler.compile = compiled
