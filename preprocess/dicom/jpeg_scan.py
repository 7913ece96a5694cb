"""Checks that a JPEG codestream is complete, because DCT decoders fill in missing data silently."""

import re
import struct
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from preprocess.dicom import entropy_coded, jpeg_blocks, jpeg_lossless, jpeg_ls
from preprocess.dicom.entropy_coded import Scan, Tables, require_fill, require_intervals, require_units
from preprocess.reasons import Reason, Rejection

_SEQUENTIAL, _LOSSLESS, _JPEG_LS = (0xC0, 0xC1), 0xC3, 0xF7
"""Frame headers (ISO/IEC 10918-1 B.1.1.3, 14495-1 C.1.1): DCT and lossless in Huffman codes, and JPEG-LS."""
_EOI, _SOS, _DHT, _DRI, _LSE = 0xD9, 0xDA, 0xC4, 0xDD, 0xF8
_APP0, _JFIF_UNITS = 0xE0, (b"\0", b"\1", b"\2")
_LSE_KINDS = (b"\1", b"\2", b"\3", b"\4")
"""Presets, two of mapping tables, and a size of more than 16 bits (14495-1 C.2.4.1)."""
_FIRST = 0xC0
"""Markers of a codestream (table B.1)."""
_END_OF_LS_SCAN = re.compile(rb"\xff+[\x80-\xcf\xd8-\xfe]")
"""In JPEG-LS a 0 bit is stuffed after 255 (14495-1 A.1)."""
_DIFFERENCES = 0
"""Class of the Huffman tables of DC coefficients and lossless differences."""


@dataclass
class _Stated:
    """The segments of a codestream before its scan."""

    kind: int = 0
    """Second byte of the frame header's marker."""
    frame: bytes = b""
    """The frame header (B.2.2)."""
    tables: Tables = field(default_factory=dict)
    interval: int = 0
    """Restart interval, in samples or blocks; 0 for none."""
    preset: bytes = b""
    """JPEG-LS's segment of preset parameters (14495-1 C.2.4.1.1)."""

    def take(self, marker: int, segment: bytes) -> None:
        """Store the parameters in a segment; raises Rejection if it is not valid."""
        if marker == _DHT:
            self.tables |= _tables(segment)
        elif marker == _DRI:
            self.interval = int.from_bytes(segment, "big")
        elif marker == _LSE:
            if segment[:1] not in _LSE_KINDS:
                raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "a segment that is not valid in JPEG-LS")
            self.preset = segment if segment[:1] == b"\1" else self.preset
        elif marker == _APP0 and segment[:5] == b"JFIF\0" and segment[7:8] not in _JFIF_UNITS:
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "a JFIF segment with unknown units")
        elif marker <= 0xCF or marker == _JPEG_LS:
            self.kind, self.frame = marker, segment


_NO_TABLE = (bytes(16), b"")


class Samples(NamedTuple):
    """The decoded samples of a codestream."""

    values: np.ndarray
    """uint8 or uint16 (rows, columns), by the precision."""
    precision: int
    """Bits of a sample."""


def decode(encoded: bytes, rows: int, columns: int) -> Samples | None:
    """The samples of a JPEG codestream of one component; None for a complete one of DCT coefficients.

    Raises Rejection unless it has its end marker, and its scan has every sample or, by its Huffman codes,
    every block of 8 by 8.
    """
    stated = _Stated()
    samples, counted, at = None, False, 2
    while at + 4 <= len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker < _FIRST:
            break
        end = at + 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
        segment = encoded[at + 4 : end]
        if marker != _SOS:
            stated.take(marker, segment)
        else:
            if samples is not None:
                raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "the codestream has more than one scan")
            samples, end = _scan(encoded, end, segment, stated, (rows, columns))
            if end < 0:
                break
            counted = True
        at = end
        if counted and encoded[at:].lstrip(b"\xff")[:1] == bytes([_EOI]):
            return samples
    raise Rejection(Reason.TRUNCATED_PIXEL_DATA, "the codestream ends without its end marker (EOI)")


def _scan(
    encoded: bytes, start: int, header: bytes, stated: _Stated, matrix: tuple[int, int]
) -> tuple[Samples | None, int]:
    """The decoded scan at byte `start`, unless it is DCT, and the offset of its end, -1 if missing.

    header: of the scan (B.2.3).
    """
    rows, columns = matrix
    if stated.kind == _JPEG_LS:
        return _jpeg_ls(encoded, start, header, stated, matrix)
    units = -(-rows // 8) * -(-columns // 8) if stated.kind in _SEQUENTIAL else rows * columns
    scan = entropy_coded.read(encoded, start, max(-(-units // (stated.interval or units)), 1))
    if scan.end < 0:
        return None, -1
    if stated.kind == _LOSSLESS:
        return _lossless(scan, header, stated, matrix), scan.end
    if stated.kind in _SEQUENTIAL:
        jpeg_blocks.count(scan, header, stated.tables, stated.interval, units)
    return None, scan.end


def _jpeg_ls(
    encoded: bytes, start: int, header: bytes, stated: _Stated, matrix: tuple[int, int]
) -> tuple[Samples | None, int]:
    """As `_scan`, for JPEG-LS; without restart intervals, which no known DICOM writer uses."""
    if stated.interval:
        end = _END_OF_LS_SCAN.search(encoded, start)
        return None, end.start() if end else -1
    _require_one_component(stated.frame, header, matrix)
    precision = stated.frame[0]
    coding = jpeg_ls.Coding.read(precision, header, stated.preset)
    if header[4] > 2 or header[5] or len(stated.preset) not in (0, 11) or not coding.is_sound:
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "the codestream's parameters are not valid in JPEG-LS")
    scan = jpeg_ls.decode(encoded, start, coding, *matrix)
    if scan.end < 0:
        return None, -1
    require_units(scan.samples, scan.values.size, "samples")
    require_fill(np.frombuffer(encoded[scan.end - scan.left // 8 : scan.end], np.uint8))
    if header[2]:  # a mapping table (14495-1 C.2.4.1.2), left to the library
        return None, scan.end
    values = scan.values if precision > 8 else scan.values.astype(np.uint8)
    return Samples(values, precision), scan.end


def _tables(segment: bytes) -> Tables:
    """The tables of a DHT segment (B.2.4.2)."""
    found, at = {}, 0
    while at + 17 <= len(segment):
        counts = segment[at + 1 : at + 17]
        found[segment[at] >> 4, segment[at] & 15] = counts, segment[at + 17 : at + 17 + sum(counts)]
        at += 17 + sum(counts)
    return found


def _require_one_component(frame: bytes, header: bytes, matrix: tuple[int, int]) -> None:
    """Raise Rejection unless frame and scan have one component, like a CT slice.

    frame, header: of the frame and of the scan (B.2.2, B.2.3); 0 rows: the number follows the scan.
    """
    sound = len(frame) == 9 and len(header) == 6 and frame[5] == header[0] == 1 and frame[6] == header[1]
    sound = sound and struct.unpack(">HH", frame[1:5]) in (matrix, (0, matrix[1]))
    sound = sound and 1 <= frame[7] >> 4 <= 4 and 1 <= frame[7] & 15 <= 4 and frame[8] <= 3
    if not sound or not 2 <= frame[0] <= 16:
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "the codestream's scan is not of one component")


def _lossless(scan: Scan, header: bytes, stated: _Stated, matrix: tuple[int, int]) -> Samples:
    """Decode a scan (annex H)."""
    rows, columns = matrix
    _require_one_component(stated.frame, header, matrix)
    precision, interval = stated.frame[0], stated.interval
    predictor, (approximation, shift) = header[3], divmod(header[5], 16)
    if not 1 <= predictor <= 7 or header[2] & 15 > 3 or header[4] or approximation or shift >= precision:
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "the codestream has no predictor of JPEG lossless")
    table = jpeg_lossless.huffman(*stated.tables.get((_DIFFERENCES, header[2] >> 4), _NO_TABLE))
    if table is None:
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "the codestream lacks a Huffman table")
    if interval % columns and interval < rows * columns:
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "a restart interval ends within a line")
    lines = min(interval // columns, rows) or rows
    values, words = np.empty(matrix, np.uint16), scan.data.view(">u4").astype(np.uint32)
    require_intervals(scan, -(-rows // lines))
    for number, (start, length) in enumerate(zip(scan.starts, scan.lengths, strict=True)):
        part = values[number * lines : (number + 1) * lines]
        initial = 1 << (precision - shift - 1)
        have, used = jpeg_lossless.decode(words[start // 4 :], 8 * length, *table, predictor, initial, part)
        require_units(have, part.size, "samples")
        require_fill(scan.data[start - (-used // 8) : start + length])
    if shift:
        values <<= shift
    if precision > 8:
        return Samples(values, precision)
    if values.max() > 255:
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "samples have more bits than the codestream declares")
    return Samples(values.astype(np.uint8), precision)
