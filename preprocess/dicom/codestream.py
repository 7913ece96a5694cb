"""Checks of a JPEG codestream's declared size and completeness before a library decodes it.

Libraries allocate memory for any size, and fill in missing data.
"""

import struct

import numpy as np

from preprocess.dicom import jpeg_scan
from preprocess.reasons import Reason, Rejection

_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xDE, 0xF7} - {0xC4, 0xC8, 0xCC}
"""Second bytes of the JPEG markers SOF0 to SOF15 (not DHT, JPG, DAC), DHP, and JPEG-LS's SOF55."""
_NUMBER_OF_LINES = b"\xff\xdc\x00\x04"
"""JPEG's DNL and its length: the number of rows if the frame header has none (ISO/IEC 10918-1 B.2.5)."""
_DECODER_BYTES = 32
"""Most memory of a decoder per pixel, besides 32 MiB: its value twice, and coefficients of 32 bits."""


def read_whole(encoded: bytes, rows: int, columns: int) -> jpeg_scan.Samples | None:
    """The samples of JPEG lossless and JPEG-LS; None for other complete JPEG codestreams.

    Raises Rejection unless a JPEG codestream declares this image and is complete:
    undecodable_pixel_data for another image and for damage, truncated_pixel_data for a truncated one.
    """
    if encoded[:2] != b"\xff\xd8" or _size(encoded) != (rows, columns, 1):
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "the codestream's matrix differs from the header's")
    return jpeg_scan.decode(encoded, rows, columns)


def require_memory(pixels: int) -> None:
    """Raise MemoryError if a library that failed to decode this many pixels may have lacked memory."""
    np.empty(pixels * _DECODER_BYTES + 2**25, np.uint8)


def _size(encoded: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components by the frame header (ISO/IEC 10918-1 B.2.2, 14495-1 C.2.2), if any."""
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
