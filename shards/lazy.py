"""Names that a package exports and imports when they are first asked for."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def exports(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package (PEP 562).

    homes: by name, the module that defines it, "module:name" where it is called otherwise there.
    `__version__` is the installed distribution's. A name that is not there raises AttributeError, one whose
    layer is not installed MissingLayerError.
    """

    def attribute(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version  # which imports much

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
