"""The common interface of the two shard formats."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from shards import tar_shard, zarr_shard
from shards.names import inside
from shards.schema import Codec, ShardFormat, VolumeRecord
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


FORMATS: dict[ShardFormat, Format] = {
    "zarr": Format(
        zarr_shard.SUFFIX, zarr_shard.ZarrShardFile, zarr_shard.encode, zarr_shard.codec, zarr_shard.read_box
    ),
    "webdataset": Format(
        tar_shard.SUFFIX, tar_shard.TarShardFile, tar_shard.encode, tar_shard.codec, tar_shard.read_box
    ),
}


def shard_path(directory: Path, name: str, format: ShardFormat) -> Path:
    """The path of shard `name` in `directory`; FmctError if `name` is not a plain file name."""
    return inside(directory, name + FORMATS[format].suffix)
