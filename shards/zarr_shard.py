"""The `zarr` shard: a zip of Zarr v3 arrays with the sharding codec, one array per volume.

Any Zarr v3 reader opens it. Encoder and decoder are implemented here for the one codec chain in use:
zarr-python's general pipeline takes about three times as long for either (docs/benchmarks.md).
"""

import errno
import json
import math
import os
import zipfile
from typing import BinaryIO

import google_crc32c
import numpy as np

from shards.buffers import Buffers
from shards.chunk import CHUNK, HEADERS, LZ4HC_LEVEL, MAX_BYTES, STREAM, ChunkEncoder
from shards.format import Format
from shards.format_names import Codec
from shards.schema import FORMAT_VERSION, VolumeRecord
from shards.voxels import VOXEL, DamagedError, Extent, Index3, read_bytes

SUFFIX = ".zarr.zip"
FILL = -1024
"""HU of omitted chunks and of the padding beyond the volume: air, the scanner's minimum."""

_ABSENT = 2**64 - 1
_CHECKSUM_BYTES = 4
_LIKE: dict[Codec, dict[str, object]] = {
    "zstd": {"cname": "zstd", "clevel": 1},
    "lz4": {"cname": "lz4hc", "clevel": LZ4HC_LEVEL},
}
"""Blosc parameters for writing similar chunks; a reader takes them all from the chunk."""
_BOXES = Buffers(8)
"""Memory for boxes: a few samples per reading process."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


class ZarrShardFile:
    """Writes volumes to an open binary file, in sequence."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._zip = zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED)
        attributes = {"fmct_format_version": FORMAT_VERSION}
        self._write("zarr.json", _json({"zarr_format": 3, "node_type": "group", "attributes": attributes}))

    def append(self, record: VolumeRecord, stored: bytes) -> Extent:
        """Write one volume as the array `record.key` with the record as attributes."""
        self._write(f"{record.key}/zarr.json", _json(_array_metadata(record, codec(stored))))
        self._write(f"{record.key}/c/0/0/0", stored)
        return Extent(self._stream.tell() - len(stored), len(stored))

    def close(self) -> None:
        """Write the zip's directory; the stream stays open."""
        self._zip.close()

    def _write(self, name: str, data: bytes) -> None:
        entry = zipfile.ZipInfo(name, _EPOCH)  # no time: rewriting a shard gives the same bytes
        entry.create_system, entry.external_attr = 3, 0o644 << 16
        self._zip.writestr(entry, data)


def encode(voxels: np.ndarray, codec: Codec = "zstd") -> bytes:
    """The shard object of one volume, (D, H, W) int16: chunks in C order, then their index."""
    encoder = ChunkEncoder(codec)
    grid = _grid(voxels.shape)
    index = np.full((*grid, 2), _ABSENT, "<u8")
    parts: list[bytes] = []
    end = 0
    for cell in np.ndindex(*grid):
        chunk = np.ascontiguousarray(voxels[tuple(slice(c * CHUNK, (c + 1) * CHUNK) for c in cell)])
        if chunk.shape != (CHUNK,) * 3:
            inside, chunk = chunk, np.full((CHUNK,) * 3, FILL, VOXEL)
            chunk[tuple(slice(0, size) for size in inside.shape)] = inside
        if chunk[0, 0, 0] == FILL and (chunk == FILL).all():
            continue
        parts.append(_with_checksum(encoder.encode(chunk)))
        index[cell] = end, len(parts[-1])
        end += len(parts[-1])
    parts.append(_with_checksum(index.tobytes()))
    return b"".join(parts)


def read_box(descriptor: int, extent: Extent, shape: Index3, start: Index3, stop: Index3) -> np.ndarray:
    """Voxels [start, stop) of a volume of `shape`: int16 (D, H, W); decodes only the chunks in the box.

    Every chunk's CRC-32C is checked. Raises DamagedError.
    """
    from shards import box_kernel  # imports numba, the slowest import here

    first = [a // CHUNK for a in start]
    touched = tuple(slice(a, -(-b // CHUNK)) for a, b in zip(first, stop, strict=True))
    index = np.ascontiguousarray(_read_index(descriptor, extent, shape)[touched])
    box = _BOXES.take(tuple(b - a for a, b in zip(start, stop, strict=True)), np.uint16)
    corners = [np.array(corner, np.int64) for corner in (first, start, stop)]
    fill = np.uint16(FILL & 0xFFFF)
    code = box_kernel.read_box(descriptor, *extent, index, *corners, fill, box)
    if code == box_kernel.UNREADABLE:
        read_bytes(descriptor, extent)  # raises the reason if the file cannot be read
        code = box_kernel.read_box(descriptor, *extent, index, *corners, fill, box)  # the error was temporary
    if code == box_kernel.UNREADABLE:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    if code == box_kernel.NO_MEMORY:
        raise MemoryError("cannot create a zstd context")
    if code:
        raise DamagedError(box_kernel.WRONG[code])
    return box.view(VOXEL)


def _read_index(descriptor: int, extent: Extent, shape: Index3) -> np.ndarray:
    """uint64 (grid D, grid H, grid W, 2): offset in the shard object and length of each chunk."""
    grid = _grid(shape)
    length = math.prod(grid) * 16 + _CHECKSUM_BYTES
    if not length <= extent.length <= length + math.prod(grid) * MAX_BYTES:
        raise DamagedError("the chunk index does not fit the object")
    stored = read_bytes(descriptor, Extent(extent.offset + extent.length - length, length))
    index, checksum = stored[:-_CHECKSUM_BYTES], stored[-_CHECKSUM_BYTES:]
    if google_crc32c.value(index).to_bytes(_CHECKSUM_BYTES, "little") != checksum:
        raise DamagedError("CRC-32C mismatch of the chunk index")
    return np.frombuffer(index, "<u8").reshape(*grid, 2)


def _grid(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-size // CHUNK) for size in shape)


def _with_checksum(data: bytes) -> bytes:
    return data + google_crc32c.value(data).to_bytes(_CHECKSUM_BYTES, "little")


def codec(stored: bytes) -> Codec:
    """The codec of a shard object's first stored chunk; zstd if all chunks are omitted."""
    return "lz4" if stored.startswith(HEADERS["lz4"]) else "zstd"


def _array_metadata(record: VolumeRecord, codec: Codec) -> dict[str, object]:
    like = {**_LIKE[codec], "blocksize": 2 * STREAM, "typesize": VOXEL.itemsize, "shuffle": "shuffle"}
    little_endian = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "chunk_shape": [CHUNK] * 3,
        "codecs": [
            little_endian,
            {"name": "blosc", "configuration": like},
            {"name": "crc32c"},
        ],
        "index_codecs": [little_endian, {"name": "crc32c"}],
        "index_location": "end",
    }
    outer = [size * CHUNK for size in _grid(record.shape)]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": record.shape,
        "data_type": "int16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": outer}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": FILL,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": ["z", "y", "x"],
        "attributes": record.model_dump(mode="json"),
    }


def _json(document: dict[str, object]) -> bytes:
    return json.dumps(document, indent=1).encode()


FORMAT = Format(SUFFIX, ZarrShardFile, encode, codec, read_box, checks_boxes=True)
