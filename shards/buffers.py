"""Reused memory for large arrays: allocating fresh memory costs as much as a copy into it."""

import math
import sys
from collections import deque

import numpy as np
from numpy.typing import DTypeLike

_MIN_BYTES = 2**20
"""Smaller allocations are not requested from the system each time."""


class Buffers:
    """Provides arrays in memory that no earlier array uses any more; safe for threads."""

    def __init__(self, limit: int) -> None:
        """limit: number of buffers to keep, each of the size of the largest array that used it."""
        self._limit = limit
        self._buffers: deque[np.ndarray] = deque()

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """An uninitialised array."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size < _MIN_BYTES:
            return np.empty(shape, dtype)
        for _ in range(len(self._buffers)):
            try:
                buffer = self._buffers.popleft()  # so that no other thread takes it
            except IndexError:
                break
            unused = sys.getrefcount(buffer) == _UNUSED_COUNT
            if unused and buffer.nbytes >= size:
                array = _as(buffer, size, shape, dtype)
                self._buffers.append(buffer)
                return array
            if not unused:
                self._buffers.append(buffer)
            del buffer
        new = np.empty(size, np.uint8)
        if len(self._buffers) < self._limit:
            self._buffers.append(new)
        return _as(new, size, shape, dtype)

    def clear(self) -> None:
        """Keep no memory; arrays in use are not affected."""
        self._buffers.clear()


def _as(buffer: np.ndarray, size: int, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    return buffer[:size].view(dtype).reshape(shape)


def _unused_reference_count() -> int:
    """Reference count of an unused buffer in `Buffers.take`: it differs between Python versions."""
    buffers = deque([np.empty(0, np.uint8)])
    buffer = buffers.popleft()
    return sys.getrefcount(buffer)


_UNUSED_COUNT = _unused_reference_count()
