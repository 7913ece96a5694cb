"""A volume's voxels: their axes, and as bytes: type, checksum, and reading from a shard file."""

import math
import os
import zlib
from typing import NamedTuple

import numpy as np

VOXEL = np.dtype("<i2")
"""Stored voxels are little-endian int16 HU in C order of (D, H, W)."""

INDEX_STEPS = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])
"""Rows: the patient direction (LPS) in which d, h, w grow: superior, anterior, right."""

MAX_VOXELS = 2**30
"""Voxels of the largest volume: 1,024³, the 2 GiB limit of one blosc buffer."""

Index3 = tuple[int, int, int]


class Extent(NamedTuple):
    """Position of a volume's compressed voxels in its shard file, in bytes."""

    offset: int
    length: int


class DamagedError(Exception):
    """Stored bytes differ from those written; the message names the failed check."""


def require_shape(shape: Index3) -> None:
    """Raise DamagedError for an impossible volume shape, before memory is allocated for it."""
    if min(shape) < 1 or math.prod(shape) > MAX_VOXELS:
        raise DamagedError(f"shape {shape} is not possible for a volume")


def crc32(voxels: np.ndarray) -> int:
    """CRC-32 (zlib) of `voxels`, any (D, H, W) int16 array, as little-endian int16 in C order."""
    return zlib.crc32(np.ascontiguousarray(voxels, VOXEL).data)


def read_bytes(descriptor: int, extent: Extent) -> bytes:
    """The bytes of `extent`; raises DamagedError if the file ends early."""
    data = bytearray(extent.length)
    read_into(descriptor, extent.offset, memoryview(data))
    return bytes(data)


def read_into(descriptor: int, offset: int, data: memoryview) -> None:
    """Fill `data` from `offset`, by positional reads, so that forks and threads can share `descriptor`.

    Raises DamagedError if the file ends early.
    """
    while data:  # Linux reads at most 2 GiB at once
        count = os.preadv(descriptor, [data], offset)
        if not count:
            raise DamagedError("the file ends within the voxels")
        offset, data = offset + count, data[count:]
