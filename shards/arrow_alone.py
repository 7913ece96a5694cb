"""Imported by modules that make Arrow tables: pyarrow without pandas.

pyarrow imports pandas, if installed, when it converts its first Python or NumPy values. That takes 0.4 s in
each process, such as a worker of `fmct preprocess`. It tries once, here, without success. Where pandas is imported
later, pyarrow's `to_pandas` and `from_pandas` work as usual.
"""

import sys
import threading
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import pyarrow as pa


class _WithoutPandas(MetaPathFinder):
    """For the thread that creates it, pandas is not installed."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "pandas" and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(name, name=name)
        return None


if "pandas" not in sys.modules:
    sys.meta_path.insert(0, _absent := _WithoutPandas())
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(_absent)
