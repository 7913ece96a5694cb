"""A file that gives a parser no more than a sound object has: few bytes cannot ask for much memory."""

import io
import re
from typing import BinaryIO

from preprocess.reasons import Reason, Rejection

MOST_BYTES = 2**28
"""Of a header that are read and not passed over: 8 KiB of functional groups for each of 32,768 frames."""
MOST_READS = 2**20
"""Of a header, one for each tag, length and value: 128 for each of 8,192 frames. pydicom makes some 400 bytes
of one, and takes 20 µs."""

MOST_VALUE = 2**25
"""Bytes of one element: a KiB for each of 32,768 frames."""
MOST_ITEMS = 2**19
"""Of a sequence, nested ones among them: 64 for each of 8,192 frames."""
_MANY = 2**16
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
"""The tag (FFFE,E000) in either byte order."""
_HEAD_BYTES = 8
"""Of an element: tag, VR and length."""
_CHARACTER_SET = (b"\x08\0\x05\0", b"\0\x08\0\x05")
"""The tag (0008,0005), which gives the encoding of texts, in either byte order."""
_WITH_VALUE = re.compile(rb".{4}CS(?!\0\0)..|.{4}[^\0]\0\0\0", re.DOTALL)
"""Its head, explicit or implicit, unless it is empty."""
_KNOWN = (b"ISO", b"GB", b"UTF-8", b"UTF8")
"""How names of character sets begin: PS3.3 C.12.1.1.2, and what careless writers call ISO_IR 192."""
_CONTROLS = bytes(range(32))
_SPACES = bytes.maketrans(_CONTROLS, b" " * len(_CONTROLS))


class Bounded:
    """A file, as parsers of DICOM use one, that raises Rejection for more than `most` bytes in all.

    It is asked for no more bytes at once than it has: for a length that damage made gigabytes, Python would
    take the memory before it reads.
    """

    def __init__(self, file: BinaryIO, size: int, most: int = MOST_BYTES) -> None:
        """size: bytes of the file."""
        self._read, self._size = file.read, size
        self._bytes, self._reads = most, MOST_READS
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        if size < 0:
            raise io.UnsupportedOperation("all of a file")
        size = min(size, self._size)
        self._bytes -= size
        self._reads -= 1
        if self._bytes < 0 or self._reads < 0:
            raise Rejection(Reason.BROKEN_HEADER, "more bytes or elements than any image has")
        return self._read(size)


class BoundedHeader(Bounded):
    """The same for what comes before the pixels.

    pydicom makes some 1,200 bytes of an item of a sequence, which has 8, and 300 of an element, which has 8.
    For the sake of a text it gives up an object whose Specific Character Set has control bytes, and takes any
    codec of Python's for one. Control bytes are read as spaces, and what names no character set as none.
    """

    def __init__(self, file: BinaryIO, size: int, most: int = MOST_BYTES) -> None:
        """size: bytes of the file."""
        super().__init__(file, size, most)
        self._value_at = -1  # of the character set, whose head was read last

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        at, self._value_at = self._value_at, -1
        names_character_set = at >= 0 and self.tell() == at  # or the head was only looked at
        data = super().read(size)
        if names_character_set:
            names = (name.strip() for name in data.translate(_SPACES).split(b"\\"))
            return b"\\".join(name if name.upper().startswith(_KNOWN) else b"" for name in names)
        if len(data) == _HEAD_BYTES:
            if data[:4] in _CHARACTER_SET and _WITH_VALUE.fullmatch(data):
                self._value_at = self.tell()
        elif len(data) > _MANY and (len(data) > MOST_VALUE or sum(map(data.count, _ITEMS)) > MOST_ITEMS):
            raise Rejection(Reason.BROKEN_HEADER, f"an element of {len(data)} bytes")
        return data
