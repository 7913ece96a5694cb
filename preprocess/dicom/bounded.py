"""A file that gives a parser no more than a sound object has, so that few bytes cannot ask for much memory."""

import io
from typing import BinaryIO

from preprocess.reasons import Reason, Rejection

MOST_BYTES = 2**28
"""Of a header that are read and not passed over: 8 KiB of functional groups for each of 32,768 frames."""
MOST_READS = 2**22
"""Of a header, one for each tag, length and value: 128 for each frame. pydicom makes some 300 bytes of one."""


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
