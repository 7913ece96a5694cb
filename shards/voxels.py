"""A volume's voxels as bytes: their type, their checksum, and reading them from a shard file."""

import math
import os
import zlib
from typing import NamedTuple

import numpy as np

VOXEL = np.dtype("<i2")
"""Stored voxels are little-endian int16 HU in C order of (D, H, W)."""

MOST_VOXELS = 2**30
"""Of a volume: 1,024³, the 2 GiB that one blosc buffer takes."""

Index3 = tuple[int, int, int]


class Extent(NamedTuple):
    """Where a volume's compressed voxels lie in its shard file, in bytes."""

    offset: int
    length: int


class DamagedError(Exception):
    """Stored bytes that can not be what was written; the message says what gave them away."""


def require_shape(shape: Index3) -> None:
    """Raise DamagedError unless a volume can have this shape: before memory is allocated for it."""
    if min(shape) < 1 or math.prod(shape) > MOST_VOXELS:
        raise DamagedError(f"no volume has the shape {shape}")


def crc32(voxels: np.ndarray) -> int:
    """CRC-32 (zlib) of `voxels`, any (D, H, W) int16 array, as little-endian int16 in C order."""
    return zlib.crc32(np.ascontiguousarray(voxels, VOXEL).data)


def read_bytes(descriptor: int, extent: Extent) -> bytes:
    """The bytes of `extent`; raises DamagedError where the file ends first."""
    data = bytearray(extent.length)
    read_into(descriptor, extent.offset, memoryview(data))
    return bytes(data)


def read_into(descriptor: int, offset: int, data: memoryview) -> None:
    """Fill `data` from `offset` on; positional, so that forks and threads can share `descriptor`.

    Raises DamagedError where the file ends first.
    """
    while data:  # Linux reads at most 2 GiB at once
        count = os.preadv(descriptor, [data], offset)
        if not count:
            raise DamagedError("the file ends within the voxels")
        offset, data = offset + count, data[count:]
