"""Deflated bytes as a seekable file, with memory independent of the inflated size."""

import io
import zlib
from bisect import bisect_right
from operator import attrgetter
from typing import Any, BinaryIO, NamedTuple

from zlib_ng import zlib_ng

from preprocess.reasons import Reason, Rejection

MAX_UNPACKED = 2**32
"""Most bytes of an object: pixel data of known length has a 32-bit length (PS3.5 section 7.1)."""
MAX_RATIO, RATIO_FROM = 200, 2**26
"""Deflate compresses CT to a half to a fifth, a black image to a thousandth. Above this ratio, from 64 MiB
on, the bytes are treated as a decompression bomb."""
INDEX_SPACING = 2**23
"""Unpacked bytes between restart points of a deflated stream: at most 40 ms of inflating are repeated, and a
point takes 40 to 100 KiB, so that 4 GiB need at most 50 MiB."""
_READ_BYTES = 2**16
_zlib_ng: Any = zlib_ng
"""Its stubs lack methods, and have `error` as a value."""
_unpacked = attrgetter("unpacked")


def is_bomb(unpacked: int, packed: int) -> bool:
    """Whether the ratio of unpacked to packed bytes is beyond that of any image."""
    return unpacked > MAX_UNPACKED or (unpacked > RATIO_FROM and unpacked > MAX_RATIO * packed)


def bomb(unpacked: int, packed: int) -> Rejection:
    """The rejection for `is_bomb`."""
    return Rejection(Reason.ARCHIVE_BOMB, f"would unpack to {unpacked} bytes from {packed}")


class _Point(NamedTuple):
    """A point where inflating can restart."""

    unpacked: int
    packed: int
    """Bytes of the stream read so far."""
    rest: bytes
    """Those bytes that are not inflated yet."""
    state: Any
    """A decompression object of zlib_ng."""


class Inflated(io.RawIOBase):
    """A raw deflate stream (RFC 1951) as a file; reading raises zlib.error on damage.

    It is inflated by zlib-ng, which has zlib's checks and copies of its state, in three quarters of zlib's
    time. ISA-L is faster still, but accepts streams with incomplete Huffman codes, and its state cannot be
    copied.
    Raises Rejection(archive_bomb) if it inflates to more than any image needs.
    """

    name = ""
    """pydicom reads the name of buffered files."""

    def __init__(self, file: BinaryIO, start: int, packed: int) -> None:
        """start, packed: offset of the stream in `file`, and its maximum size in bytes."""
        self._file, self._start, self._packed = file, start, packed
        self._position = self._unpacked = self._consumed = 0
        self._rest = b""
        self._state = _zlib_ng.decompressobj(-zlib.MAX_WBITS)
        self._points = [self._point()]

    def readable(self) -> bool:
        """As a file's."""
        return True

    def seekable(self) -> bool:
        """As a file's."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As a file's, except from the end, which is only known after inflating everything."""
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("from the end of a deflated stream")
        self._position = max(offset + (self._position if whence == io.SEEK_CUR else 0), 0)
        return self._position

    def tell(self) -> int:
        """As a file's."""
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """As a file's."""
        point = self._points[bisect_right(self._points, self._position, key=_unpacked) - 1]
        if not point.unpacked <= self._unpacked <= self._position:
            self._unpacked, self._consumed, self._rest = point.unpacked, point.packed, point.rest
            self._state = point.state.copy()
        while self._unpacked < self._position:
            if not self._inflate(min(self._position - self._unpacked, INDEX_SPACING)):
                return 0
        data = self._inflate(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _inflate(self, limit: int) -> bytes:
        """The next bytes, up to `limit`; none at the end."""
        data = b""
        while limit and not data and not self._state.eof:
            if not self._rest:
                self._file.seek(self._start + self._consumed)
                self._rest = self._file.read(min(_READ_BYTES, self._packed - self._consumed))
                self._consumed += len(self._rest)
            ended = not self._rest
            try:
                data = self._state.decompress(self._rest, limit)
            except _zlib_ng.error as error:  # not a zlib.error
                raise zlib.error(*error.args) from None
            self._rest = self._state.unconsumed_tail
            if ended and not data and not self._state.eof:
                raise zlib.error("the deflated stream ends early")
        self._unpacked += len(data)
        if is_bomb(self._unpacked, self._packed):
            raise bomb(self._unpacked, self._packed)
        if self._unpacked >= self._points[-1].unpacked + INDEX_SPACING:
            self._points.append(self._point())
        return data

    def _point(self) -> _Point:
        return _Point(self._unpacked, self._consumed, self._rest, self._state.copy())
