"""Functions compiled by numba and cached in `shards.caches.place`.

If the cache cannot be read or written, functions are compiled again; nothing else changes. Cache entries are
keyed by all code that they were compiled from, so different versions of this code do not share entries.
"""

import ctypes
import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import CodeType
from typing import Any

import llvmlite.binding
import numba
from numba import types
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.ccallback import CFunc
from numba.core.dispatcher import Dispatcher

from shards.caches import place

log = logging.getLogger(__name__)

Function = Callable[..., Any]

_CONSTANTS = (bool, int, float, str, bytes, tuple)


def njit(**options: Any) -> Callable[[Function], Any]:
    """`numba.njit` with these options, `nogil`, and the cache of this module."""

    def compile(function: Function) -> Any:
        compiled = numba.njit(nogil=True, **options)(function)
        if isinstance(compiled, Dispatcher):  # NUMBA_DISABLE_JIT returns the plain function
            _keep(compiled, function)
        return compiled

    return compile


def cfunc(signature: Any) -> Callable[[Function], Any]:
    """`numba.cfunc` of this signature, with the cache of this module."""

    def compile(function: Function) -> Any:
        callback = CFunc(function, (signature.args, signature.return_type), locals={}, options={})
        _keep(callback, function)
        callback.compile()
        return callback

    return compile


def c_function(library: ctypes.CDLL, name: str, result: types.Type, *arguments: types.Type) -> Any:
    """A C function for compiled code, by name: cached code must not contain addresses."""
    symbol = f"fmct_{name}"
    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    llvmlite.binding.add_symbol(symbol, address)
    return types.ExternalFunction(symbol, result(*arguments))


def source_digest(function: Function) -> str:
    """SHA-256 of the code and constants of a function and of the functions it calls.

    numba's own cache is keyed by the function's file only, although code of other files is compiled in.
    """
    text = "\0".join(_parts(function, set()))
    return hashlib.sha256(text.encode()).hexdigest()


def _parts(function: Function, seen: set[Function]) -> Iterator[str]:
    if function in seen:
        return
    seen.add(function)
    for code in _codes(function.__code__):
        constants = [value for value in code.co_consts if not isinstance(value, CodeType)]
        yield f"{function.__qualname__} {code.co_code.hex()} {constants} {code.co_names} {code.co_varnames}"
        for name in code.co_names:
            value = function.__globals__.get(name)
            if isinstance(value, Dispatcher):
                yield repr(sorted(value.targetoptions.items()))
                yield from _parts(value.py_func, seen)
            elif isinstance(value, (*_CONSTANTS, numba.types.Type)):
                yield f"{name} {value!r}"


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code objects of a function and of the functions and comprehensions nested in it."""
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _codes(value)


def _keep(compiled: Any, function: Function) -> None:
    if place() is not None:
        compiled._cache = _Cache(function)


class _Locator:
    """Gives numba the cache location of a function."""

    def __init__(self, digest: str) -> None:
        self._digest = digest

    @classmethod
    def from_function(cls, function: Function, file: str) -> "_Locator":
        return cls(source_digest(function))

    def ensure_cache_path(self) -> None:
        folder = place()
        assert folder is not None
        (folder / "numba").mkdir(mode=0o700, exist_ok=True)

    def get_cache_path(self) -> str:
        return f"{place()}/numba"

    def get_source_stamp(self) -> str:
        return self._digest

    def get_disambiguator(self) -> str:
        return self._digest[:32]


class _Implementation(CompileResultCacheImpl):
    _locator_classes = (_Locator,)


class _Cache(FunctionCache):
    """Created on first use, when all functions of the module are defined."""

    _impl_class = _Implementation

    def __init__(self, function: Function) -> None:
        self._function = function
        self._made = False

    def _make(self) -> None:
        if not self._made:
            super().__init__(self._function)
            self._made = True

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            self._make()
            return super().load_overload(sig, target_context)
        except Exception as error:  # unpickling damaged bytes can raise anything
            log.debug("%s: compiled again: %s", self._function.__qualname__, error)
            with suppress(OSError):
                if self._made:
                    self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            self._make()
            super().save_overload(sig, data)
        except Exception as error:  # as above: the index is read first
            log.debug("%s: compiled code is not cached: %s", self._function.__qualname__, error)
