"""One chunk of a zarr shard: 32³ voxels as a standard blosc buffer.

Little-endian, the layout of c-blosc 1 for zstd or lz4, typesize 2, byte shuffle, one block, one stream per
byte:

    0   version 2, the codec's version 1, flags (0x81: shuffle, split streams, zstd; 0x21: lz4), typesize 2
    4   uint32 each: bytes decoded (65,536), bytes of a block (65,536), bytes of this buffer
    16  uint32 20: offset of the block
    20  uint32 length, then the stream of low bytes; uint32 length, then the stream of high bytes

A stream is one zstd frame or lz4 block, or the 32,768 raw bytes if that would not be shorter. The format is
blosc's; the encoder is written here because blosc creates a zstd context for each stream, which takes as long
as decoding one of this size (docs/benchmarks.md).
"""

import ctypes
from struct import Struct

import numpy as np
from numcodecs import lz4, zstd

from shards.format_names import Codec
from shards.voxels import VOXEL

CHUNK = 32
"""Edge of a chunk in voxels: a random 112³ crop decodes 2.1 times its voxels (64: 3.8 times)."""
STREAM = CHUNK**3
"""Decoded bytes of a stream: one of the two bytes of each voxel."""
MAX_BYTES = 20 + 2 * (4 + STREAM) + 4
"""Largest size of a chunk with its CRC-32C."""
HEADERS: dict[Codec, bytes] = {
    "zstd": bytes([2, 1, 0x81, VOXEL.itemsize]),
    "lz4": bytes([2, 1, 0x21, VOXEL.itemsize]),
}
"""The header of a chunk."""

_HEAD = Struct("<4s4I")
_LENGTH = Struct("<I")

# ZSTD_cParameter of zstd.h. Noise repeats only by chance: short and distant matches cost bytes and time.
_LEVEL, _HASH_LOG, _CHAIN_LOG, _MIN_MATCH = 100, 102, 103, 105
_PARAMETERS = {_LEVEL: 3, _HASH_LOG: 10, _CHAIN_LOG: 10, _MIN_MATCH: 7}

LZ4HC_LEVEL = 9
"""lz4's default for its slower search: 12 takes four times as long for 0.7 % fewer bytes (lz4hc.h)."""

library = ctypes.CDLL(zstd.__file__)
"""The zstd library bundled with numcodecs."""
library.ZSTD_createCCtx.restype = ctypes.c_void_p
library.ZSTD_freeCCtx.argtypes = [ctypes.c_void_p]
library.ZSTD_CCtx_setParameter.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
_buffer = (ctypes.c_void_p, ctypes.c_size_t)
library.ZSTD_compress2.argtypes = [ctypes.c_void_p, *_buffer, *_buffer]
library.ZSTD_compress2.restype = ctypes.c_size_t
lz4_library = ctypes.CDLL(lz4.__file__)
"""The lz4 library bundled with numcodecs."""
lz4_library.LZ4_compress_HC.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int] * 3]


class ChunkEncoder:
    """Encodes chunks with one reused zstd context, or with lz4."""

    def __init__(self, codec: Codec = "zstd") -> None:
        self._codec = codec
        self._context = library.ZSTD_createCCtx()
        for parameter, value in _PARAMETERS.items():
            library.ZSTD_CCtx_setParameter(self._context, parameter, value)
        self._frame = np.empty(STREAM - 1, np.uint8)  # a longer frame is stored raw

    def encode(self, chunk: np.ndarray) -> bytes:
        """The blosc buffer of `chunk`, int16 (CHUNK, CHUNK, CHUNK) in C order."""
        streams = [self._stream(chunk.astype(np.uint8)), self._stream((chunk >> 8).astype(np.uint8))]
        body = b"".join(_LENGTH.pack(len(stream)) + stream for stream in streams)
        size = 2 * STREAM
        return _HEAD.pack(HEADERS[self._codec], size, size, _HEAD.size + len(body), _HEAD.size) + body

    def _stream(self, plane: np.ndarray) -> bytes:
        to, room = self._frame.ctypes.data, self._frame.nbytes
        if self._codec == "lz4":
            length = lz4_library.LZ4_compress_HC(plane.ctypes.data, to, plane.nbytes, room, LZ4HC_LEVEL)
        else:
            length = library.ZSTD_compress2(self._context, to, room, plane.ctypes.data, plane.nbytes)
        failed = not 0 < length <= room  # errors are the largest size_t values in zstd, 0 in lz4
        return plane.tobytes() if failed else self._frame[:length].tobytes()

    def __del__(self) -> None:
        library.ZSTD_freeCCtx(self._context)
