"""Whether a JPEG codestream holds all of its image: decoders fill in what a cut one lacks."""

import re

import numpy as np

from preprocess.dicom import jpeg_ls
from preprocess.reasons import Reason, Rejection
from shards.compiled import njit

_SEQUENTIAL, _LOSSLESS, _JPEG_LS = (0xC0, 0xC1), 0xC3, 0xF7
"""Frame headers (ISO/IEC 10918-1 B.1.1.3, 14495-1 C.1.1): DCT and lossless in Huffman codes, and JPEG-LS."""
_EOI, _SOS, _DHT, _DRI, _LSE = 0xD9, 0xDA, 0xC4, 0xDD, 0xF8
_END_OF_SCAN = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")
"""In entropy-coded bytes 0 is stuffed behind 255, and a restart marker is 208 to 215 (B.1.1.5)."""
_END_OF_LS_SCAN = re.compile(rb"\xff+[\x80-\xcf\xd8-\xfe]")
"""There a 0 bit is stuffed (14495-1 A.1)."""
_RESTART = re.compile(rb"\xff+[\xd0-\xd7]")


def require_all(encoded: bytes, rows: int, columns: int) -> None:
    """Raise Rejection unless the codestream ends with its end, and its scan holds every sample.

    Samples of an image of one component are counted by their Huffman codes, those of JPEG-LS by decoding them
    (with restart intervals, which no writer of DICOM is known to use there, they are not).
    """
    tables: dict[tuple[int, int], np.ndarray] = {}
    precision, preset = 0, b""
    frame, interval, counted, at = 0, 0, False, 2
    while at + 4 <= len(encoded) and encoded[at] == 0xFF:
        kind = encoded[at + 1]
        if kind == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
        segment = encoded[at + 4 : end]
        if kind == _DHT:
            tables |= _tables(segment)
        elif kind == _DRI:
            interval = int.from_bytes(segment, "big")
        elif 0xC0 <= kind <= 0xCF or kind == _JPEG_LS:
            frame, precision = kind, segment[0] if segment else 0
        elif kind == _LSE and segment[:1] == b"\1":
            preset = segment
        elif kind == _SOS:
            found = (_END_OF_LS_SCAN if frame == _JPEG_LS else _END_OF_SCAN).search(encoded, end)
            if not found:
                break
            if frame in (*_SEQUENTIAL, _LOSSLESS):
                _count(encoded[end : found.start()], segment, tables, frame, interval, (rows, columns))
            elif frame == _JPEG_LS and not interval:
                coding = jpeg_ls.Coding.read(precision, segment, preset)
                _decode(encoded[end : found.start()], coding, (rows, columns))
            counted, end = True, found.start()
        at = end
        if counted and encoded[at:].lstrip(b"\xff")[:1] == bytes([_EOI]):
            return
    raise Rejection(Reason.TRUNCATED_PIXEL_DATA, "the codestream ends without its end marker (EOI)")


def _tables(segment: bytes) -> dict[tuple[int, int], np.ndarray]:
    """Huffman tables of a DHT segment (B.2.4.2) by class and number.

    uint16 (65536,): for each 16 bits the code they begin with, its length above 8 bits and its symbol below;
    0 for no code.
    """
    found, at = {}, 0
    while at + 17 <= len(segment):
        counts = segment[at + 1 : at + 17]
        symbols = segment[at + 17 : at + 17 + sum(counts)]
        lengths = np.repeat(np.arange(1, 17), list(counts))[: len(symbols)]
        spans = 1 << (16 - lengths)
        entries = np.repeat(((lengths << 8) | np.frombuffer(symbols, np.uint8)).astype(np.uint16), spans)
        table = np.zeros(2**16, np.uint16)
        table[: len(entries)] = entries[: 2**16]
        found[segment[at] >> 4, segment[at] & 15] = table
        at += 17 + sum(counts)
    return found


def _count(
    scan: bytes,
    header: bytes,
    tables: dict[tuple[int, int], np.ndarray],
    frame: int,
    interval: int,
    matrix: tuple[int, int],
) -> None:
    """Raise Rejection unless a scan holds all samples, or blocks of 8 by 8; header: of the scan (B.2.3)."""
    rows, columns = matrix
    if len(header) < 3 or header[0] != 1:
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "the codestream's scan is not of one component")
    first, others = tables.get((0, header[2] >> 4)), tables.get((1, header[2] & 15))
    lossless = frame == _LOSSLESS
    if first is None or (others is None and not lossless):
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "the codestream lacks a Huffman table")
    more = first if others is None else others
    units = rows * columns if lossless else -(-rows // 8) * -(-columns // 8)
    parts = _RESTART.split(scan) if interval else [scan]
    for number in range(0, max(-(-units // interval), 1) if interval else 1):
        wanted = min(interval, units - number * interval) if interval else units
        part = parts[number].replace(b"\xff\x00", b"\xff") if number < len(parts) else b""
        have, used = _decoded(np.frombuffer(part, np.uint8), first, more, lossless, wanted)
        if have < wanted:
            missing = f"{have} of {wanted} {'samples' if lossless else 'blocks'}"
            raise Rejection(Reason.TRUNCATED_PIXEL_DATA, f"the codestream decodes to {missing}")
        _require_fill(part[-(-used // 8) :])
    if interval and len(parts) != max(-(-units // interval), 1):
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, f"the codestream has {len(parts)} restart intervals")


def _decode(scan: bytes, coding: jpeg_ls.Coding, matrix: tuple[int, int]) -> None:
    """Raise Rejection unless a scan of JPEG-LS holds all samples."""
    _, have, left = jpeg_ls.decode(scan, coding, *matrix)
    if have < matrix[0] * matrix[1]:
        missing = f"{have} of {matrix[0] * matrix[1]} samples"
        raise Rejection(Reason.TRUNCATED_PIXEL_DATA, f"the codestream decodes to {missing}")
    _require_fill(scan[len(scan) - left // 8 :])


def _require_fill(rest: bytes) -> None:
    if rest.strip(b"\x00") and rest.strip(b"\xff"):
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "the codestream goes on behind its last sample")


@njit()
def _decoded(
    data: np.ndarray, first: np.ndarray, others: np.ndarray, lossless: bool, wanted: int
) -> tuple[int, int]:
    """How many samples (lossless) or blocks the bytes hold, up to `wanted`, and the bits these take.

    A code is followed by as many bits as its symbol says (F.2.2, H.1.2.2), 16 of a lossless difference
    excepted.
    """
    bits = 8 * len(data)
    at = done = index = 0
    while done < wanted:
        byte, shift = at >> 3, at & 7
        window = 0
        for k in range(3):
            window = (window << 8) | (data[byte + k] if byte + k < len(data) else 255)
        entry = (first if lossless or index == 0 else others)[(window >> (8 - shift)) & 0xFFFF]
        length, symbol = entry >> 8, entry & 255
        if length == 0:
            break
        if lossless:
            extra = symbol if symbol < 16 else 0
            ended = True
        elif index == 0:
            extra, index, ended = symbol, 1, False
        else:
            extra, run = symbol & 15, symbol >> 4
            index = 64 if symbol == 0 else index + run + 1
            ended = index == 64
            if index > 64:
                break
        at += length + extra
        if at > bits or (index <= 1 and symbol > 16):
            break
        if ended:
            done, index = done + 1, 0
    return done, at
