"""One chunk of a zarr shard: 32³ voxels as a blosc buffer that every blosc reads.

Little-endian bytes, as c-blosc 1 has them for zstd, typesize 2, byte shuffle, one block and a stream a byte:

    0   version 2, zstd's version 1, flags 0x81 (shuffle, split streams, zstd), typesize 2
    4   uint32 each: bytes decoded (65,536), bytes of a block (65,536), bytes of this buffer
    16  uint32 20: where the block begins
    20  uint32 length, then the stream of low bytes; uint32 length, then the stream of high bytes

A stream is one zstd frame, or the 32,768 bytes as they are where a frame would not be shorter. The format
is blosc's; the work is done here because blosc makes a zstd context for each stream, which takes as long
as decoding one of this size (docs/benchmarks.md).
"""

import ctypes
from struct import Struct

import numpy as np
from numcodecs import zstd

from shards.voxels import VOXEL

CHUNK = 32
"""Edge of a chunk in voxels: a random 112³ crop decodes 2.1 times its voxels (64: 3.8 times)."""
STREAM = CHUNK**3
"""Bytes of a stream decoded: one of the two bytes of each voxel."""
MOST_BYTES = 20 + 2 * (4 + STREAM) + 4
"""That a chunk and its CRC-32C can have."""
HEADER = bytes([2, 1, 0x81, VOXEL.itemsize])

_HEAD = Struct("<4s4I")
_LENGTH = Struct("<I")

# zstd.h's ZSTD_cParameter. Noise repeats by chance only: short and far matches cost bytes and time.
_LEVEL, _HASH_LOG, _CHAIN_LOG, _MIN_MATCH = 100, 102, 103, 105
_PARAMETERS = {_LEVEL: 3, _HASH_LOG: 10, _CHAIN_LOG: 10, _MIN_MATCH: 7}

library = ctypes.CDLL(zstd.__file__)
"""The zstd that numcodecs brings."""
library.ZSTD_createCCtx.restype = ctypes.c_void_p
library.ZSTD_freeCCtx.argtypes = [ctypes.c_void_p]
library.ZSTD_CCtx_setParameter.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
_buffer = (ctypes.c_void_p, ctypes.c_size_t)
library.ZSTD_compress2.argtypes = [ctypes.c_void_p, *_buffer, *_buffer]
library.ZSTD_compress2.restype = ctypes.c_size_t


class ChunkEncoder:
    """Encodes chunks one after another with one zstd context."""

    def __init__(self) -> None:
        self._context = library.ZSTD_createCCtx()
        for parameter, value in _PARAMETERS.items():
            library.ZSTD_CCtx_setParameter(self._context, parameter, value)
        self._frame = np.empty(STREAM - 1, np.uint8)  # what does not fit is stored as it is

    def encode(self, chunk: np.ndarray) -> bytes:
        """The blosc buffer of `chunk`, int16 (CHUNK, CHUNK, CHUNK) in C order."""
        streams = [self._stream(chunk.astype(np.uint8)), self._stream((chunk >> 8).astype(np.uint8))]
        body = b"".join(_LENGTH.pack(len(stream)) + stream for stream in streams)
        size = 2 * STREAM
        return _HEAD.pack(HEADER, size, size, _HEAD.size + len(body), _HEAD.size) + body

    def _stream(self, plane: np.ndarray) -> bytes:
        length = library.ZSTD_compress2(
            self._context, self._frame.ctypes.data, self._frame.nbytes, plane.ctypes.data, plane.nbytes
        )
        failed = length > self._frame.nbytes  # zstd's errors are the greatest of size_t
        return plane.tobytes() if failed else self._frame[:length].tobytes()

    def __del__(self) -> None:
        library.ZSTD_freeCCtx(self._context)
