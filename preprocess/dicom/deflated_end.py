"""Checks the end of a deflated data set, because raw deflate (RFC 1951) has no checksum."""

import io
import struct
import zlib
from typing import BinaryIO

from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

from preprocess.reasons import Reason, Rejection

_PIXEL_DATA = (0x7FE0, 0x0010)
_UNDEFINED_LENGTH = 0xFFFFFFFF
_READ_BYTES = 2**20


def read_to_end(file: BinaryIO, length: int, offset: int, count: int) -> bytes:
    """Up to `count` bytes of the pixels from `offset`; the remaining bytes are read once.

    file: the inflated data set, explicit little endian (PS3.5 section A.5), positioned at its pixels of
    `length` bytes. Raises Rejection unless complete elements, in order, follow the pixels to the end of the
    last block. Damage shifts all following bytes, so that the computed end of the pixels lies within pixels,
    whose bytes are not elements.
    """
    end = file.tell() + length
    try:
        file.seek(offset, io.SEEK_CUR)
        data = file.read(min(count, max(length - offset, 0)))
        if file.tell() < end:
            file.seek(end - 1)
            file.read(1)
        if file.tell() != end:
            raise Rejection(Reason.TRUNCATED_PIXEL_DATA, "the deflated data set ends before its pixels do")
        last = _PIXEL_DATA
        while head := file.read(8):
            last = _pass_element(file, head, last)
    except zlib.error:
        raise Rejection(Reason.TRUNCATED_PIXEL_DATA, "the deflated stream is damaged or incomplete") from None
    return data


def _pass_element(file: BinaryIO, head: bytes, last: tuple[int, int]) -> tuple[int, int]:
    """Skip the element whose `head` was read; return its tag, which must be greater than `last`."""
    damaged = Rejection(
        Reason.UNDECODABLE_PIXEL_DATA, "the bytes after the deflated pixels are not an element"
    )
    if len(head) < 8:
        raise damaged
    group, element, vr, length = struct.unpack("<HH2sH", head)
    name = vr.decode("latin-1")
    if (group, element) <= last or name not in STANDARD_VR:
        raise damaged
    if name in EXPLICIT_VR_LENGTH_32:
        length = int.from_bytes(file.read(4), "little")
    if length == _UNDEFINED_LENGTH:  # a sequence: its items are not checked
        while file.read(_READ_BYTES):
            pass
        return group, element
    file.seek(max(length - 1, 0), io.SEEK_CUR)
    if length and not file.read(1):
        raise damaged
    return group, element
