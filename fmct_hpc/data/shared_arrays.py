"""Passing values between processes through shared memory; their arrays are used in place, without copies."""

import mmap
import os
import pickle
import weakref
from collections.abc import Iterable
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import numpy as np

_ALIGNMENT = 64
"""Alignment of arrays in bytes: a cache line."""

_GROWTH = 2
"""Factor of the memory that is mapped to that needed: later values may be larger, and unwritten pages take no
memory."""


class Sender:
    """Writes values, one at a time; the memory is anonymous and is freed when its processes end."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | bytearray = bytearray()

    def send(self, pipe: Connection, value: Any) -> None:
        """Write a value and send the sizes of its parts; the receiver must have released the last value."""
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
        sizes = [part.nbytes for part in parts]
        needed = sum(map(_aligned, sizes))
        descriptor = self._grow(_GROWTH * needed) if needed > len(self._memory) else None
        for part, start in zip(parts, _starts(sizes), strict=True):
            self._memory[start : start + part.nbytes] = part
        pipe.send((sizes, 0 if descriptor is None else len(self._memory)))
        if descriptor is not None:
            send_handle(pipe, descriptor, None)
            os.close(descriptor)

    def _grow(self, size: int) -> int:
        descriptor = os.memfd_create("fmct-samples")
        os.truncate(descriptor, size)
        self._memory = mmap.mmap(descriptor, size)
        return descriptor


class Receiver:
    """Receives values, whose arrays are views of the shared memory."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | bytearray = bytearray()
        self._used: weakref.ref[np.ndarray] | None = None

    @property
    def used(self) -> bool:
        """Whether an array of the last received value is still referenced."""
        return self._used is not None and self._used() is not None

    def receive(self, pipe: Connection) -> Any:
        """The next value; raises EOFError or OSError if the sender has died."""
        sizes, size = pipe.recv()
        if size:
            descriptor = recv_handle(pipe)
            self._memory = mmap.mmap(descriptor, size)
            os.close(descriptor)
        whole = np.frombuffer(self._memory, np.uint8)  # kept alive by every array of the value
        self._used = weakref.ref(whole)
        bytes_ = whole.data
        head, *buffers = (bytes_[at : at + n] for at, n in zip(_starts(sizes), sizes, strict=True))
        return pickle.loads(head, buffers=buffers)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _starts(sizes: Iterable[int]) -> list[int]:
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + _aligned(size))
    return starts[:-1]
