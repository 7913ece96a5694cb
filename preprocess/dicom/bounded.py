"""Files with limits on reading, so that a damaged object cannot make a parser use much memory."""

import io
import re
from typing import BinaryIO

from preprocess.reasons import Reason, Rejection

MAX_BYTES = 2**28
"""Most bytes read from a header (without skipped ones): 8 KiB of functional groups for 32,768 frames."""
MAX_READS = 2**20
"""Most reads of a header, one per tag, length and value: 128 for each of 8,192 frames. pydicom uses about 400
bytes and 20 µs for one."""

MAX_VALUE = 2**25
"""Most bytes of one element: 1 KiB for each of 32,768 frames."""
MAX_ITEMS = 2**19
"""Most items of sequences, including nested ones: 64 for each of 8,192 frames."""
_MANY = 2**16
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
"""The tag (FFFE,E000) in either byte order."""
_HEAD_BYTES = 8
"""Bytes of an element's head: tag, VR and length."""
_CHARACTER_SET = (b"\x08\0\x05\0", b"\0\x08\0\x05")
"""The tag (0008,0005), the encoding of texts, in either byte order."""
_WITH_VALUE = re.compile(rb".{4}CS(?!\0\0)..|.{4}[^\0]\0\0\0", re.DOTALL)
"""Its head, explicit or implicit, unless it is empty."""
_KNOWN = (b"ISO", b"GB", b"UTF-8", b"UTF8")
"""Prefixes of character set names: PS3.3 C.12.1.1.2, and names for ISO_IR 192 by careless writers."""
_CONTROLS = bytes(range(32))
_SPACES = bytes.maketrans(_CONTROLS, b" " * len(_CONTROLS))


class Bounded:
    """A file for DICOM parsers that raises Rejection after more than `limit` bytes in all.

    A single read never requests more bytes than the file has: for a damaged length of gigabytes, Python would
    allocate the memory before reading.
    """

    def __init__(self, file: BinaryIO, size: int, limit: int = MAX_BYTES) -> None:
        """size: bytes of the file."""
        self._read, self._size = file.read, size
        self._bytes, self._reads = limit, MAX_READS
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        if size < 0:
            raise io.UnsupportedOperation("reading a whole file")
        size = min(size, self._size)
        self._bytes -= size
        self._reads -= 1
        if self._bytes < 0 or self._reads < 0:
            raise Rejection(Reason.BROKEN_HEADER, "more bytes or elements than any image has")
        return self._read(size)


class BoundedHeader(Bounded):
    """`Bounded` for the header before the pixels.

    pydicom uses about 1,200 bytes for an item of a sequence and 300 for an element, each of 8 bytes in the
    file. It rejects an object with control bytes in Specific Character Set, and accepts any Python codec as a
    character set. Here control bytes are read as spaces, and names that are not character sets as empty.
    """

    def __init__(self, file: BinaryIO, size: int, limit: int = MAX_BYTES) -> None:
        """size: bytes of the file."""
        super().__init__(file, size, limit)
        self._value_at = -1  # position of the character set's value, after its head was read

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        at, self._value_at = self._value_at, -1
        names_character_set = at >= 0 and self.tell() == at  # otherwise the head was only peeked at
        data = super().read(size)
        if names_character_set:
            names = (name.strip() for name in data.translate(_SPACES).split(b"\\"))
            return b"\\".join(name if name.upper().startswith(_KNOWN) else b"" for name in names)
        if len(data) == _HEAD_BYTES:
            if data[:4] in _CHARACTER_SET and _WITH_VALUE.fullmatch(data):
                self._value_at = self.tell()
        elif len(data) > _MANY and (len(data) > MAX_VALUE or sum(map(data.count, _ITEMS)) > MAX_ITEMS):
            raise Rejection(Reason.BROKEN_HEADER, f"an element of {len(data)} bytes")
        return data
