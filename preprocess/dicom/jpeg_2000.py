"""Samples of JPEG 2000 and HTJ2K codestreams (ISO/IEC 15444-1, 15444-15), decoded by OpenJPEG.

OpenJPEG fills in missing data, so tiles and the end marker are checked first.
"""

import struct
from typing import NamedTuple

import numpy as np
from openjpeg.utils import decode as decoded_bytes

from preprocess.dicom import tile_parts
from preprocess.dicom.codestream import require_memory
from preprocess.reasons import Reason, Rejection

_CODESTREAM = 0
"""OpenJPEG's number for data without the boxes of a JP2 file."""
_START = b"\xff\x4f\xff\x51"
"""Markers SOC and SIZ, the start of a codestream (15444-1 A.4.1, A.5.1)."""


class Samples(NamedTuple):
    """The decoded samples of a codestream."""

    values: np.ndarray
    """Integer (rows, columns) of the pixels' width and sign."""
    precision: int
    """Bits of a sample."""
    signed: bool
    """Whether the samples are. Where pixels differ, values are extended from `precision` or cut to it."""


def decode(encoded: bytes, rows: int, columns: int, allocated: int, representation: int) -> Samples:
    """The samples of a codestream of one component for pixels of this many bits.

    representation: Pixel Representation (0028,0103) of the pixels; the codestream's own sign often differs.

    Raises Rejection: undecodable_pixel_data for another image and for damage, truncated_pixel_data for a
    truncated codestream.
    """
    start = _start(encoded)
    if encoded[start : start + 4] != _START or len(encoded) < start + 43:
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "no codestream of JPEG 2000")
    # The SIZ segment (15444-1 A.5.1).
    right, bottom, left, top = struct.unpack_from(">4L", encoded, start + 8)
    components, depth = struct.unpack_from(">HB", encoded, start + 40)
    if (bottom - top, right - left, components) != (rows, columns, 1):
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "the codestream's matrix differs from the header's")
    precision, signed = (depth & 0x7F) + 1, bool(depth & 0x80)
    if precision > allocated:
        detail = f"samples of {precision} bits in pixels of {allocated}"
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, detail)
    tile_parts.require_all(encoded, start)
    try:
        decoded = decoded_bytes(encoded[start:], _CODESTREAM, reshape=False)
    except RuntimeError:
        require_memory(rows * columns)
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "the decoder rejects the codestream") from None
    kind, width = "ui"[representation], 1 if precision <= 8 else 2 if precision <= 16 else 4
    values = decoded.view(f"<{kind}{width}").reshape(rows, columns)
    values = values.astype(f"<{kind}{allocated // 8}", copy=False)
    if signed != bool(representation):
        unused = allocated - precision
        values = (values << unused) >> unused
    return Samples(values, precision, signed)


def _start(encoded: bytes) -> int:
    """The offset of the codestream, also inside a JP2 file stored whole by a writer (15444-1 I.4)."""
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
