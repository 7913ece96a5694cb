"""One compiled pass from stored chunks to the voxels of a box: read, check, decode, copy.

The CRC-32C of each chunk (shards.chunk) is checked. Its two streams are decoded into a scratch buffer that
fits the processor's cache. Only the lines inside the box are merged, directly at their destination.
"""

import ctypes
from importlib import import_module

import numpy as np
from numba import types

from shards.chunk import CHUNK, HEADERS, MAX_BYTES, STREAM, library, lz4_library
from shards.compiled import c_function, njit

OK, CHECKSUM_DIFFERS, OTHER_LAYOUT, OUTSIDE, UNDECODABLE, UNREADABLE, NO_MEMORY = range(7)
WRONG = {
    CHECKSUM_DIFFERS: "chunk CRC-32C mismatch",
    OTHER_LAYOUT: "a chunk does not have the layout of docs/formats.md",
    OUTSIDE: "a chunk lies outside its array",
    UNDECODABLE: "its codec cannot decode a chunk",
}

_ZSTD, _LZ4 = (int.from_bytes(HEADERS[codec], "little") for codec in ("zstd", "lz4"))
_BLOCK = np.int64(20)
_HEADER = np.arange(0, _BLOCK, 4)
"""Places of the header's numbers."""
_ABSENT = np.uint64(2**64 - 1)
_LINE = np.uintp(CHUNK)
_LAYER = np.uintp(CHUNK * CHUNK)


_size = types.uintp
_create_context = c_function(library, "ZSTD_createDCtx", _size)
_free_context = c_function(library, "ZSTD_freeDCtx", _size, _size)
_decompress = c_function(library, "ZSTD_decompressDCtx", _size, _size, _size, _size, _size, _size)
_decompress_lz4 = c_function(
    lz4_library, "LZ4_decompress_safe", types.int32, _size, _size, types.int32, types.int32
)
_crc32c_module = ctypes.CDLL(import_module("google_crc32c._crc32c").__file__)
_crc32c = c_function(_crc32c_module, "crc32c_value", types.uint32, _size, _size)
_pread = c_function(ctypes.CDLL(None), "pread", types.intp, types.intc, _size, _size, types.int64)

_jit = njit(error_model="numpy")


@_jit
def read_box(descriptor, offset, extent, index, first, start, stop, fill, box):  # type: ignore[no-untyped-def]
    """Fill `box` from the chunks that it overlaps; return OK, or the code of the first damaged chunk.

    Args:
        descriptor: open file.
        offset, extent: start of the array's shard object in the file, and its size in bytes.
        index: uint64 (n, n, n, 2), offset in the object and length of each touched chunk with its CRC-32C,
            or 2^64 - 1 for a chunk of `fill`.
        first: int64 (3,), number of the first touched chunk on each axis.
        start, stop: int64 (3,), the box in voxels of the volume.
        fill: uint16.
        box: uint16 (D, H, W) in C order.
    """
    context = _create_context()
    if context == 0:
        return NO_MEMORY
    planes = np.empty(2 * STREAM, np.uint8)
    layer = np.empty(_LAYER, np.uint16)
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    chunks_d, chunks_h, chunks_w = index.shape[:3]
    stored = np.empty(chunks_w * MAX_BYTES, np.uint8)
    code = OK
    for d in range(chunks_d):
        for h in range(chunks_h):
            row = index[d, h]
            code = _read_row(descriptor, offset, np.uint64(extent), row, stored)
            at = np.int64(0)
            for w in range(chunks_w):
                if code != OK:
                    break
                for axis, number in enumerate((d, h, w)):
                    origin = (first[axis] + number) * CHUNK
                    low[axis] = max(start[axis], origin)
                    high[axis] = min(stop[axis], origin + CHUNK)
                if row[w, 0] == _ABSENT:
                    _fill(low, high, start, fill, box)
                    continue
                length = np.int64(row[w, 1])
                code = _decode(context, stored[at : at + length], planes)
                if code == OK:
                    _put(planes, layer, low, high, start, box)
                at += length
            if code != OK:
                break
        if code != OK:
            break
    _free_context(context)
    return code


@_jit
def _read_row(descriptor, offset, extent, row, stored):  # type: ignore[no-untyped-def]
    """Read the chunks of a row into `stored`, contiguous chunks with one read."""
    at = size = np.int64(0)
    begin = np.uint64(0)
    for w in range(len(row) + 1):
        if w < len(row):
            place, length = row[w]
            if place == _ABSENT:
                continue
            if place > extent or length > extent - place:
                return OUTSIDE
            if length > MAX_BYTES:
                return OTHER_LAYOUT
            if size and place == begin + np.uint64(size):
                size += np.int64(length)
                continue
        if size:
            count = _pread(descriptor, stored[at:].ctypes.data, np.uintp(size), offset + np.int64(begin))
            if count != size:
                return UNREADABLE
            at += size
        if w < len(row):
            begin, size = place, np.int64(length)
    return OK


@_jit
def _decode(context, chunk, planes):  # type: ignore[no-untyped-def]
    """Decode the two streams of a chunk with its checksum, one after the other, into `planes`."""
    length = len(chunk) - 4
    if length < _BLOCK + 8:
        return OTHER_LAYOUT
    if _crc32c(chunk.ctypes.data, np.uintp(length)) != _uint32(chunk, length):
        return CHECKSUM_DIFFERS
    # Not literal places: `_uint32` would be compiled for each.
    codec = _uint32(chunk, _HEADER[0])
    if (
        (codec != _ZSTD and codec != _LZ4)
        or _uint32(chunk, _HEADER[1]) != 2 * STREAM
        or _uint32(chunk, _HEADER[2]) != 2 * STREAM
        or _uint32(chunk, _HEADER[3]) != length
        or _uint32(chunk, _HEADER[4]) != _BLOCK
    ):
        return OTHER_LAYOUT
    at = _BLOCK
    for stream in range(2):
        size = np.int64(_uint32(chunk, at)) if at + 4 <= length else np.int64(length)
        at += 4
        if at + size > length:
            return OTHER_LAYOUT
        plane = planes[stream * STREAM : (stream + 1) * STREAM]
        data = chunk[at : at + size]
        if size == STREAM:
            for i in range(STREAM):  # compiled in a tenth of the time of an assignment of arrays
                plane[i] = data[i]
        elif not _decode_stream(context, codec == _LZ4, data, plane):
            return UNDECODABLE
        at += size
    return OK


@_jit
def _decode_stream(context, lz4, data, plane):  # type: ignore[no-untyped-def]
    """Decode a stream into `plane`; whether its bytes are a frame or block of that length."""
    source, to = data.ctypes.data, plane.ctypes.data
    if lz4:
        return _decompress_lz4(source, to, np.int32(data.size), np.int32(STREAM)) == STREAM
    return _decompress(context, to, np.uintp(STREAM), source, np.uintp(data.size)) == np.uintp(STREAM)


@_jit
def _uint32(data, at):  # type: ignore[no-untyped-def]
    value = np.uint32(0)
    for byte in range(4):
        value |= np.uint32(data[at + byte]) << np.uint32(8 * byte)
    return value


@_jit
def _fill(low, high, start, fill, box):  # type: ignore[no-untyped-def]
    """Set the voxels in [low, high) of the volume to `fill`."""
    flat = box.reshape(-1)
    width = np.uintp(high[2] - low[2])
    for z in range(low[0] - start[0], high[0] - start[0]):
        for y in range(low[1] - start[1], high[1] - start[1]):
            to = np.uintp((z * box.shape[1] + y) * box.shape[2] + low[2] - start[2])
            for x in range(width):
                flat[to + x] = fill


@_jit
def _put(planes, layer, low, high, start, box):  # type: ignore[no-untyped-def]
    """Merge the bytes of a chunk's voxels in [low, high) of the volume into the box.

    One layer at a time: long loops are vectorised, and unsigned indices avoid the test for negative indices.
    """
    flat = box.reshape(-1)
    lows, highs = planes[:STREAM], planes[STREAM:]
    width = np.uintp(high[2] - low[2])
    first = np.uintp(low[1] % CHUNK) * _LINE
    last = np.uintp((high[1] - 1) % CHUNK) * _LINE + _LINE
    for z in range(low[0], high[0]):
        source = np.uintp(z % CHUNK) * _LAYER
        for i in range(first, last):
            layer[i] = np.uint16(lows[source + i]) | (np.uint16(highs[source + i]) << np.uint16(8))
        for y in range(low[1], high[1]):
            line = np.uintp(y % CHUNK) * _LINE + np.uintp(low[2] % CHUNK)
            row = (z - start[0]) * box.shape[1] + y - start[1]
            to = np.uintp(row * box.shape[2] + low[2] - start[2])
            for x in range(width):
                flat[to + x] = layer[line + x]
