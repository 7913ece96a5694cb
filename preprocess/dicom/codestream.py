"""Checks of a codestream's declared size and completeness before a library decodes it.

Libraries allocate memory for any size, and fill in missing data.
"""

import struct

from preprocess.dicom import jpeg_scan, tile_parts
from preprocess.reasons import Reason, Rejection

_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xDE, 0xF7} - {0xC4, 0xC8, 0xCC}
"""Second bytes of the JPEG markers SOF0 to SOF15 (not DHT, JPG, DAC), DHP, and JPEG-LS's SOF55."""
_NUMBER_OF_LINES = b"\xff\xdc\x00\x04"
"""JPEG's DNL and its length: the number of rows if the frame header has none (ISO/IEC 10918-1 B.2.5)."""
_JPEG_2000 = b"\xff\x4f\xff\x51"
"""JPEG 2000's markers SOC and SIZ, the start of a codestream."""


def read_whole(encoded: bytes, rows: int, columns: int) -> jpeg_scan.Samples | None:
    """The samples of JPEG lossless and JPEG-LS; None for other complete codestreams.

    Raises Rejection unless a JPEG (2000) codestream declares this image and is complete:
    undecodable_pixel_data for another image and for damage, truncated_pixel_data for a truncated one.
    """
    if _size(encoded) != (rows, columns, 1):
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "the codestream's matrix differs from the header's")
    if encoded[:2] == b"\xff\xd8":
        return jpeg_scan.decode(encoded, rows, columns)
    tile_parts.require_all(encoded, _start(encoded))
    return None


def _size(encoded: bytes) -> tuple[int, int, int] | None:
    """Declared rows, columns and components; None if not declared.

    JPEG 2000: the SIZ segment (ISO/IEC 15444-1 A.5.1), the first after the start; JPEG and JPEG-LS: a
    frame header (ISO/IEC 10918-1 B.2.2, 14495-1 C.2.2), after other segments.
    """
    if encoded[:2] == b"\xff\xd8":
        return _jpeg_size(encoded)
    start = _start(encoded)
    if encoded[start : start + 4] != _JPEG_2000 or len(encoded) < start + 42:
        return None
    right, bottom, left, top = struct.unpack_from(">4L", encoded, start + 8)
    (components,) = struct.unpack_from(">H", encoded, start + 40)
    return bottom - top, right - left, components


def _jpeg_size(encoded: bytes) -> tuple[int, int, int] | None:
    at = 2
    while at + 10 <= len(encoded) and encoded[at] == 0xFF:
        if encoded[at + 1] == 0xFF:  # a fill byte
            at += 1
        elif encoded[at + 1] in _FRAME_HEADERS:
            rows, columns, components = struct.unpack_from(">HHB", encoded, at + 5)
            if not rows:
                stated = {lines[:2] for lines in encoded.split(_NUMBER_OF_LINES)[1:]}
                rows = int.from_bytes(stated.pop(), "big") if len(stated) == 1 else 0
            return rows, columns, components
        else:
            at += 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    return None


def _start(encoded: bytes) -> int:
    """The start of a JPEG 2000 codestream, also inside a JP2 file stored whole by a writer (15444-1 I.4)."""
    if encoded[4:8] != b"jP  ":
        return 0
    at = 0
    while at + 8 <= len(encoded):
        length, kind = struct.unpack_from(">L4s", encoded, at)
        if kind == b"jp2c":
            return at + (16 if length == 1 else 8)
        if length < 8:
            break
        at += length
    return len(encoded)
