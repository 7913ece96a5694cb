"""A volume's voxels as bytes: their type, their checksum, and reading them from a shard file."""

import os
import zlib
from typing import NamedTuple

import numpy as np
from numcodecs import blosc

VOXEL = np.dtype("<i2")
"""Stored voxels are little-endian int16 HU in C order of (D, H, W)."""

blosc.use_threads = False  # its context-free mode, which forks and threads can use

Index3 = tuple[int, int, int]


class Extent(NamedTuple):
    """Where a volume's compressed voxels lie in its shard file, in bytes."""

    offset: int
    length: int


class DamagedError(Exception):
    """Stored bytes that can not be what was written; the message says what gave them away."""


def crc32(voxels: np.ndarray) -> int:
    """CRC-32 (zlib) of `voxels`, any (D, H, W) int16 array, as little-endian int16 in C order."""
    return zlib.crc32(np.ascontiguousarray(voxels, VOXEL).data)


def read_bytes(descriptor: int, extent: Extent) -> bytes:
    """The bytes of `extent`; positional, so that forks and threads can share `descriptor`.

    Raises DamagedError where the file ends first.
    """
    offset, missing, parts = extent.offset, extent.length, []
    while missing:  # Linux reads at most 2 GiB at once
        part = os.pread(descriptor, missing, offset)
        if not part:
            raise DamagedError("the file ends within the voxels")
        parts.append(part)
        offset, missing = offset + len(part), missing - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
