"""JPEG Lossless (ISO/IEC 10918-1 process 14, annex H), decoded strictly: incomplete data are reported."""

from functools import lru_cache

import numpy as np

from shards.compiled import njit

_SHORT = 12
"""Bits of the table that decodes a whole difference at once; nearly all codes with differences of CT fit."""
_ONES = 0xFFFFFFFF
_LONGEST = 16
"""Bits of a Huffman code (C.2)."""


@lru_cache(maxsize=8)
def huffman(counts: bytes, symbols: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """A table of a DHT segment (B.2.4.2) for `decode`; None if it is not a code of differences.

    counts: codes of 1 to 16 bits; symbols: one for each, a number of bits from 0 to 16 (table H.2).
    """
    lengths = np.repeat(np.arange(1, _LONGEST + 1), list(counts))
    spans = 1 << (_LONGEST - lengths)
    end = int(spans.sum())
    if len(lengths) != len(symbols) or not 0 < end <= 2**_LONGEST or max(symbols) > 16:
        return None
    # Codes by their first 16-bit value, ascending: a code is the last one that is not greater.
    firsts = np.cumsum(spans) - spans
    codes = np.stack([firsts, lengths, np.frombuffer(symbols, np.uint8)]).astype(np.int64)
    return _short(codes), np.append(codes, [[end], [0], [0]], 1)


@njit()
def decode(
    data: np.ndarray,
    bits: int,
    short: np.ndarray,
    codes: np.ndarray,
    predictor: int,
    initial: int,
    out: np.ndarray,
) -> tuple[int, int]:
    """Decode an interval of a scan, uint32 words with `bits` valid bits, into `out`, uint16 (rows, columns).

    short, codes: from `huffman`; predictor: 1 to 7 (table H.1); initial: the prediction of the first sample,
    2^(P - Pt - 1) (H.1.2.1). Returns the number of decoded samples, in complete lines only, and the number
    of their bits.
    """
    rows, columns = out.shape
    differences = np.zeros(columns, np.int64)
    held, count, word = np.uint64(0), 0, 0  # bits read but not used yet, and the next word
    for y in range(rows):
        for x in range(columns):
            if count < 32:
                held = (held << np.uint64(32)) | np.uint64(data[word] if word < len(data) else _ONES)
                word += 1
                count += 32
            entry = short[np.int64(held >> np.uint64(count - _SHORT)) & ((1 << _SHORT) - 1)]
            if entry:
                count -= entry & 255
                differences[x] = entry >> 8
                continue
            symbol, length = _long(np.int64(held >> np.uint64(count - _LONGEST)) & 0xFFFF, codes)
            count -= length
            extra = symbol if symbol < 16 else 0
            if length == 0 or 32 * word - count + extra > bits:
                return y * columns, 32 * word - count
            if count < extra:
                held = (held << np.uint64(32)) | np.uint64(data[word] if word < len(data) else _ONES)
                word += 1
                count += 32
            count -= extra
            value = np.int64(held >> np.uint64(count)) & ((1 << extra) - 1)
            differences[x] = _difference(symbol, value)
        if 32 * word - count > bits:
            return y * columns, 32 * word - count
        if y == 0:
            _first_line(differences, initial, out[0])
        else:
            _line(differences, predictor, out[y - 1], out[y])
    return rows * columns, 32 * word - count


@njit()
def _short(codes: np.ndarray) -> np.ndarray:
    """int32 (4096,): for 12 bits, the first difference (above 8 bits) and its number of bits; 0 for none."""
    out = np.zeros(1 << _SHORT, np.int32)
    for k in range(codes.shape[1]):
        first, length, symbol = codes[0, k], codes[1, k], codes[2, k]
        extra = symbol if symbol < 16 else 0
        if length + extra > _SHORT:
            continue
        at = first >> (_LONGEST - _SHORT)
        span = 1 << (_SHORT - length - extra)
        for value in range(1 << extra):
            entry = (_difference(symbol, value) << 8) | (length + extra)
            for j in range(span):
                out[at + value * span + j] = entry
    return out


@njit()
def _difference(symbol: int, value: int) -> int:
    """The difference by its number of bits and these bits (H.1.2.2, F.2.2.1)."""
    if symbol == 0:
        return 0
    if symbol == 16:
        return 32768
    return value if value >> (symbol - 1) else value - (1 << symbol) + 1


@njit()
def _long(window: int, codes: np.ndarray) -> tuple[int, int]:
    """Symbol and length of the code at the start of 16 bits; (0, 0) for none."""
    last = codes.shape[1] - 1
    if window >= codes[0, last]:
        return 0, 0
    low, high = 0, last
    while high - low > 1:
        middle = (low + high) >> 1
        if codes[0, middle] <= window:
            low = middle
        else:
            high = middle
    return codes[2, low], codes[1, low]


@njit()
def _first_line(differences: np.ndarray, initial: int, line: np.ndarray) -> None:
    value = initial
    for x in range(len(line)):
        value = (value + differences[x]) & 0xFFFF
        line[x] = value


@njit()
def _line(differences: np.ndarray, predictor: int, above: np.ndarray, line: np.ndarray) -> None:
    """Decode a line from the line above; the first sample is predicted by the one above it (H.1.2.1)."""
    corner = np.int64(above[0])
    left = (corner + differences[0]) & 0xFFFF
    line[0] = left
    if predictor == 1:
        for x in range(1, len(line)):
            left = (left + differences[x]) & 0xFFFF
            line[x] = left
        return
    for x in range(1, len(line)):
        up = np.int64(above[x])
        if predictor == 2:
            predicted = up
        elif predictor == 3:
            predicted = corner
        elif predictor == 4:
            predicted = left + up - corner
        elif predictor == 5:
            predicted = left + ((up - corner) >> 1)
        elif predictor == 6:
            predicted = up + ((left - corner) >> 1)
        else:
            predicted = (left + up) >> 1
        left = (predicted + differences[x]) & 0xFFFF
        line[x] = left
        corner = up
