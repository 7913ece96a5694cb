"""RLE Lossless (PS3.5 annex G), decoded strictly: frames with incomplete segments are rejected."""

import struct
from itertools import pairwise

import numpy as np

from preprocess.reasons import Reason, Rejection
from shards.compiled import njit

_HEADER_BYTES = 64
"""The number of segments, and the offset of each of up to 15 (section G.5)."""


def decode(encoded: bytes, rows: int, columns: int, allocated: int) -> np.ndarray:
    """The pixels of one sample, uint8, uint16 or uint32 (rows, columns), by `allocated` bits.

    A segment holds one byte of all pixels, the most significant byte first. Raises Rejection:
    truncated_pixel_data if one decodes to fewer bytes, undecodable_pixel_data for other or too long segments.
    """
    planes, count = allocated // 8, rows * columns
    head = struct.unpack("<16L", encoded[:_HEADER_BYTES].ljust(_HEADER_BYTES, b"\0"))
    starts = [*head[1 : 1 + planes], len(encoded)]
    ordered = starts[0] == _HEADER_BYTES and all(a < b for a, b in pairwise(starts[:-1]))
    if head[0] != planes or any(head[1 + planes :]) or not ordered:
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, f"{head[0]} segments of RLE, not {planes} in order")
    decoded = np.empty((count, planes), np.uint8)
    data = np.frombuffer(encoded, np.uint8)
    for plane in range(planes):
        segment = data[starts[plane] : starts[plane + 1]]
        have, used = _unpacked(segment, decoded[:, planes - 1 - plane])
        if have < count:
            raise Rejection(Reason.TRUNCATED_PIXEL_DATA, f"an RLE segment decodes to {have} of {count} bytes")
        if have > count or segment[used:].any():
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "an RLE segment continues after its last pixel")
    return decoded.view(f"<u{planes}").reshape(rows, columns)


@njit()
def _unpacked(segment: np.ndarray, out: np.ndarray) -> tuple[int, int]:
    """Decode into `out` (section G.3.2); return the decoded bytes, even if too many, and the bytes read."""
    at = have = 0
    while at < len(segment) and have < len(out):
        control = segment[at]
        at += 1
        if control < 128:
            count = control + 1
            if at + count > len(segment):
                return have, at
            for k in range(min(count, len(out) - have)):
                out[have + k] = segment[at + k]
            at += count
            have += count
        elif control > 128:
            if at >= len(segment):
                return have, at
            count = 257 - control
            for k in range(min(count, len(out) - have)):
                out[have + k] = segment[at]
            at += 1
            have += count
    return have, at
