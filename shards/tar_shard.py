"""The `webdataset` shard: a POSIX tar with `<key>.vol.blosc` and `<key>.json` per volume.

`webdataset.WebDataset(path)` reads it sequentially; the index gives random access to a volume. A volume is
one blosc buffer, so reading a box costs as much as reading the whole volume.
"""

import io
import math
import tarfile
from typing import BinaryIO

import numpy as np
from numcodecs import blosc

from shards.errors import FmctError
from shards.format import Format
from shards.format_names import Codec
from shards.schema import VolumeRecord
from shards.voxels import VOXEL, DamagedError, Extent, Index3, read_bytes

SUFFIX = ".tar"

blosc.use_threads = False  # context-free mode, safe for forks and threads

_MAX_BYTES = blosc.MAX_BUFFERSIZE
_BLOCKS = {"blocksize": 2**20, "typesize": VOXEL.itemsize}
_CODECS: dict[Codec, blosc.Blosc] = {
    "zstd": blosc.Blosc("zstd", clevel=1, shuffle=blosc.BITSHUFFLE, **_BLOCKS),
    "lz4": blosc.Blosc("lz4hc", clevel=9, shuffle=blosc.SHUFFLE, **_BLOCKS),
}


class TarShardFile:
    """Writes volumes to an open binary file, in sequence."""

    def __init__(self, stream: BinaryIO):
        self._tar = tarfile.TarFile(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT)

    def append(self, record: VolumeRecord, stored: bytes) -> Extent:
        """Write one volume and its record."""
        offset = self._write(f"{record.key}.vol.blosc", stored)
        self._write(f"{record.key}.json", record.model_dump_json().encode())
        return Extent(offset, len(stored))

    def close(self) -> None:
        """Write the tar's end; the stream stays open."""
        self._tar.close()

    def _write(self, name: str, data: bytes) -> int:
        """Add one member and return the offset of its data."""
        member = tarfile.TarInfo(name)  # no time and no owner: rewriting a shard gives the same bytes
        member.size = len(data)
        offset = self._tar.offset + tarfile.BLOCKSIZE
        self._tar.addfile(member, io.BytesIO(data))
        return offset


def encode(voxels: np.ndarray, codec: Codec = "zstd") -> bytes:
    """One volume, (D, H, W) int16, as a blosc buffer.

    Raises FmctError for a volume of 2 GiB or more, blosc's limit.
    """
    if voxels.nbytes > _MAX_BYTES:
        raise FmctError("2 GiB exceed the limit of one blosc buffer; use the zarr format")
    stored: bytes = _CODECS[codec].encode(np.ascontiguousarray(voxels, VOXEL))
    return stored


def codec(stored: bytes) -> Codec:
    """By the three highest bits of blosc's flags, at byte 2, which are 1 for lz4 and lz4hc."""
    return "lz4" if stored[2] >> 5 == 1 else "zstd"


def read_box(descriptor: int, extent: Extent, shape: Index3, start: Index3, stop: Index3) -> np.ndarray:
    """Voxels [start, stop) of a volume of `shape`: int16 (D, H, W); decodes the whole volume.

    Raises DamagedError.
    """
    nbytes = math.prod(shape) * VOXEL.itemsize
    if extent.length > nbytes + blosc.MAX_OVERHEAD:
        raise DamagedError("more bytes than a blosc buffer of its shape can have")
    stored = read_bytes(descriptor, extent)
    # blosc's own header: uncompressed size at byte 4, compressed size at byte 12, little-endian
    sizes = int.from_bytes(stored[4:8], "little"), int.from_bytes(stored[12:16], "little")
    if sizes != (nbytes, len(stored)):
        raise DamagedError("the blosc header gives another size")
    volume = np.empty(shape, VOXEL)
    try:
        blosc.decompress(stored, volume)
    except (RuntimeError, ValueError) as error:
        raise DamagedError("blosc cannot decode it") from error
    return volume[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]


FORMAT = Format(SUFFIX, TarShardFile, encode, codec, read_box)
