"""The interface of shard formats, which shards/formats.py lists."""

from collections.abc import Callable
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from shards.format_names import Codec
from shards.schema import VolumeRecord
from shards.voxels import Extent, Index3


class ShardFile(Protocol):
    """Writes volumes to an open binary file, one after another."""

    def append(self, record: VolumeRecord, stored: bytes) -> Extent:
        """Write one volume, its voxels encoded by `encode`; return the extent of the voxels."""

    def close(self) -> None:
        """Write the end of the file; the stream stays open."""


class Format(NamedTuple):
    """File suffix, writer and reader of a shard format."""

    suffix: str
    writer: Callable[[BinaryIO], ShardFile]
    encode: Callable[[np.ndarray, Codec], bytes]
    """int16 (D, H, W) and a codec to the stored bytes; FmctError if the volume cannot be stored."""
    codec: Callable[[bytes], Codec]
    """The codec of stored bytes, given the first 16."""
    read_box: Callable[[int, Extent, Index3, Index3, Index3], np.ndarray]
    """(file descriptor, extent, volume shape, start, stop) -> int16 (D, H, W); raises DamagedError."""
    checks_boxes: bool = False
    """Whether `read_box` detects every changed byte of a box; if not, `Dataset.read_box` decodes the whole
    volume and checks its CRC-32."""
