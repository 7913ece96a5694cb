"""The entropy-coded bytes of a JPEG scan, without stuffing and divided at restart markers."""

from typing import NamedTuple

import numpy as np

from preprocess.reasons import Reason, Rejection
from shards.compiled import njit

Tables = dict[tuple[int, int], tuple[bytes, bytes]]
"""Huffman tables by class and number: the counts of codes of 1 to 16 bits, and their symbols."""


class Scan(NamedTuple):
    """The data between a scan's header and the marker that ends it (ISO/IEC 10918-1 B.1.1.5)."""

    data: np.ndarray
    """uint8: the intervals in sequence, each padded with ones to a multiple of 32 bits."""
    starts: np.ndarray
    """Offset of each interval."""
    lengths: np.ndarray
    """Bytes of each interval."""
    end: int
    """Offset of the end marker in the codestream; -1 if missing."""


def read(encoded: bytes, start: int, intervals: int) -> Scan:
    """The scan that starts at byte `start`, with at most `intervals` + 1 intervals."""
    source = np.frombuffer(encoded, np.uint8)
    out = np.empty(len(encoded) - start + 4 * (intervals + 2), np.uint8)
    starts, lengths = np.zeros(intervals + 1, np.int64), np.zeros(intervals + 1, np.int64)
    found, end = _unstuffed(source, start, out, starts, lengths)
    size = starts[found - 1] + -(-lengths[found - 1] // 4) * 4
    return Scan(out[:size], starts[:found], lengths[:found], end)


def require_intervals(scan: Scan, wanted: int) -> None:
    """Raise Rejection unless the number of intervals is `wanted`."""
    have = len(scan.starts)
    if have < wanted:
        raise Rejection(Reason.TRUNCATED_PIXEL_DATA, f"{have} of {wanted} restart intervals")
    if have > wanted:
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "the codestream has too many restart intervals")


def require_units(have: int, wanted: int, what: str) -> None:
    """Raise Rejection for fewer than `wanted` samples or blocks; what: their name."""
    if have < wanted:
        detail = f"the codestream decodes to {have} of {wanted} {what}"
        raise Rejection(Reason.TRUNCATED_PIXEL_DATA, detail)


def require_fill(rest: np.ndarray) -> None:
    """Raise Rejection if the bytes after the last sample are not all zeros or all ones."""
    if rest.any() and (rest != 255).any():
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "the codestream continues after its last sample")


@njit()
def _unstuffed(
    source: np.ndarray, at: int, out: np.ndarray, starts: np.ndarray, lengths: np.ndarray
) -> tuple[int, int]:
    """Fill the output arrays; return the number of intervals, and the end of the scan.

    After 255, 0 is stuffing, 208 to 215 in cyclic order are restart markers (B.1.1.5, E.1.4), another 255 is
    a fill byte (B.1.1.2), and anything else ends the scan.
    """
    have = markers = 0
    while at < len(source):
        value = source[at]
        if value != 255:
            out[have] = value
            have += 1
            at += 1
            continue
        behind = at + 1
        while behind < len(source) and source[behind] == 255:
            behind += 1
        if behind == len(source):
            break
        marker = source[behind]
        if marker == 0:
            for _ in range(at, behind):
                out[have] = 255
                have += 1
        else:
            lengths[markers] = have - starts[markers]
            markers += 1
            while have % 4:
                out[have] = 255
                have += 1
            if marker != 208 + (markers - 1) % 8 or markers == len(starts):
                return markers, at
            starts[markers] = have
        at = behind + 1
    lengths[markers] = have - starts[markers]
    while have % 4:
        out[have] = 255
        have += 1
    return markers + 1, -1
