"""An encoder of JPEG Lossless (ISO/IEC 10918-1 annex H), complete for one component."""

import heapq
import struct

import numpy as np


def written(
    image: np.ndarray, precision: int, predictor: int = 1, restart_lines: int = 0, shift: int = 0
) -> bytes:
    """The codestream of unsigned `image` (rows, columns) of `precision` bits.

    predictor: 1 to 7; restart_lines: lines between restart markers, 0 for none; shift: the point transform.
    """
    rows, columns = image.shape
    lines = restart_lines or rows
    parts = [image[at : at + lines].astype(np.int64) >> shift for at in range(0, rows, lines)]
    coded = [_differences(part, predictor, 1 << (precision - shift - 1)) for part in parts]
    sizes = [_bit_lengths(part) for part in coded]
    lengths = _code_lengths(np.bincount(np.concatenate(sizes), minlength=17))
    symbols = sorted((length, symbol) for symbol, length in lengths.items())
    counts = bytes(sum(length == n for length, _ in symbols) for n in range(1, 17))
    codes, code, before = np.zeros(17, np.int64), 0, 0
    for length, symbol in symbols:
        code <<= length - before
        codes[symbol], code, before = code, code + 1, length
    widths = np.array([lengths.get(symbol, 0) for symbol in range(17)])
    out = b"\xff\xd8" + _segment(0xC3, struct.pack(">BHHB3B", precision, rows, columns, 1, 1, 0x11, 0))
    out += _segment(0xC4, b"\0" + counts + bytes(symbol for _, symbol in symbols))
    if restart_lines:
        out += _segment(0xDD, struct.pack(">H", restart_lines * columns))
    out += _segment(0xDA, bytes([1, 1, 0, predictor, 0, shift]))
    for number, (values, size) in enumerate(zip(coded, sizes, strict=True)):
        out += bytes([0xFF, 0xD0 + (number - 1) % 8]) if number else b""
        extra = np.where(size == 16, 0, size)
        bits = np.where(values < 0, values - 1, values) & ((1 << extra) - 1)
        out += _packed((codes[size] << extra) | bits, widths[size] + extra).replace(b"\xff", b"\xff\0")
    return out + b"\xff\xd9"


def _differences(image: np.ndarray, predictor: int, initial: int) -> np.ndarray:
    """Differences from the prediction (table H.1), modulo 2^16, -32767 to 32768."""
    left, up = np.roll(image, 1, 1), np.roll(image, 1, 0)
    corner = np.roll(up, 1, 1)
    predicted = {
        1: left,
        2: up,
        3: corner,
        4: left + up - corner,
        5: left + ((up - corner) >> 1),
        6: up + ((left - corner) >> 1),
        7: (left + up) >> 1,
    }[predictor]
    predicted[:, 0] = up[:, 0]
    predicted[0] = left[0]
    predicted[0, 0] = initial
    return ((image - predicted + 32767) % 65536 - 32767).ravel()


def _bit_lengths(values: np.ndarray) -> np.ndarray:
    return np.ceil(np.log2(abs(values) + 1)).astype(np.int64)


def _code_lengths(counts: np.ndarray) -> dict[int, int]:
    """Bits of each symbol's Huffman code; an extra symbol has the unused code of all ones."""
    heap = [(int(count), number, [number]) for number, count in enumerate(counts) if count]
    heap.append((0, 99, [99]))
    heapq.heapify(heap)
    lengths = dict.fromkeys((number for _, number, _ in heap), 0)
    while len(heap) > 1:
        (a, _, first), (b, number, second) = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in first + second:
            lengths[symbol] += 1
        heapq.heappush(heap, (a + b, number, first + second))
    # The code of all ones is the last of the longest codes.
    longest = max(lengths.values())
    lengths.pop(99)
    assert longest <= 16
    return lengths


def _packed(values: np.ndarray, widths: np.ndarray) -> bytes:
    """Concatenated values of the given numbers of bits, padded with ones."""
    ends = np.cumsum(widths)
    place = np.repeat(ends, widths) - np.arange(ends[-1]) - 1
    bits = (np.repeat(values, widths) >> place) & 1
    return np.packbits(np.append(bits, np.ones(-len(bits) % 8, bits.dtype)).astype(np.uint8)).tobytes()


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
