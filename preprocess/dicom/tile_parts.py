"""Checks that a JPEG 2000 codestream has all its tiles and its end marker."""

import struct

from preprocess.reasons import Reason, Rejection

_SIZ, _SOT, _EOC = b"\xff\x51", b"\xff\x90", b"\xff\xd9"
"""Markers (ISO/IEC 15444-1 table A.2)."""


def require_all(encoded: bytes, start: int) -> None:
    """Raise Rejection unless every tile-part has its stated length and the codestream ends with EOC.

    start: offset of the codestream. A tile-part states its length (Psot, A.4.2), or 0: up to the end.
    """
    at, tiles = start + 2, 0
    while at + 4 <= len(encoded) and encoded[at : at + 2] != _SOT:
        if encoded[at : at + 2] == _SIZ and at + 38 <= len(encoded):
            right, bottom, _, _, width, height, left, top = struct.unpack_from(">8L", encoded, at + 6)
            if not (width and height):
                break
            tiles = -(-(right - left) // width) * -(-(bottom - top) // height)
        at += 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    seen = set()
    while encoded[at : at + 2] == _SOT and at + 12 <= len(encoded):
        tile, length = struct.unpack_from(">HL", encoded, at + 4)
        seen.add(tile)
        if length == 0:
            at = encoded.rfind(_EOC, at)
            break
        at += max(length, 12)
    if at < 0 or encoded[at : at + 2] != _EOC:
        raise Rejection(Reason.TRUNCATED_PIXEL_DATA, "the codestream ends without its end marker (EOC)")
    if seen != set(range(tiles)):
        raise Rejection(Reason.TRUNCATED_PIXEL_DATA, f"{len(seen)} of {tiles} tiles of the codestream")
