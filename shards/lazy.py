"""Exported names of a package that are imported on first use."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def exports(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package (PEP 562).

    homes: the defining module of each name, or "module:name" if its name there differs. `__version__` is the
    installed distribution's. An unknown name raises AttributeError; a name of a layer that is not installed
    raises MissingLayerError.
    """

    def attribute(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version  # slow to import

            return version("fmct-hpc")
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, inner = homes[name].partition(":")
        from shards.layers import named_layers

        with named_layers():
            return getattr(import_module(module), inner or name)

    def directory() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes, "__version__"})

    return attribute, directory
