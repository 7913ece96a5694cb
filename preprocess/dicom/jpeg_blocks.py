"""Checks that a scan of DCT coefficients has all its blocks, by its Huffman codes."""

from functools import lru_cache

import numpy as np

from preprocess.dicom.entropy_coded import Scan, Tables, require_fill, require_intervals, require_units
from preprocess.reasons import Reason, Rejection
from shards.compiled import njit


def count(scan: Scan, header: bytes, tables: Tables, interval: int, units: int) -> None:
    """Raise Rejection unless a scan has `units` blocks of 8 by 8; header: of the scan (B.2.3)."""
    if len(header) < 3 or header[0] != 1:
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "the codestream's scan is not of one component")
    first, others = tables.get((0, header[2] >> 4)), tables.get((1, header[2] & 15))
    if first is None or others is None:
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "the codestream lacks a Huffman table")
    require_intervals(scan, max(-(-units // interval), 1) if interval else 1)
    for number, (start, length) in enumerate(zip(scan.starts, scan.lengths, strict=True)):
        wanted = min(interval, units - number * interval) if interval else units
        part = scan.data[start : start + length]
        have, used = _blocks(part, _codes(*first), _codes(*others), wanted)
        require_units(have, wanted, "blocks")
        require_fill(scan.data[start - (-used // 8) : start + length])


@lru_cache(maxsize=8)
def _codes(counts: bytes, symbols: bytes) -> np.ndarray:
    """uint16 (65536,): the code at the start of each 16-bit value; 0 for none.

    The length is in the high byte, the symbol in the low byte.
    """
    lengths = np.repeat(np.arange(1, 17), list(counts))[: len(symbols)]
    entries = ((lengths << 8) | np.frombuffer(symbols, np.uint8)).astype(np.uint16)
    entries = np.repeat(entries, 1 << (16 - lengths))[: 2**16]
    return np.append(entries, np.zeros(2**16 - len(entries), np.uint16))


@njit()
def _blocks(data: np.ndarray, first: np.ndarray, others: np.ndarray, wanted: int) -> tuple[int, int]:
    """The number of blocks in the bytes, up to `wanted`, and their bits.

    The symbol of a code gives the number of bits that follow it (F.2.2).
    """
    bits = 8 * len(data)
    at = done = index = 0
    while done < wanted:
        byte, shift = at >> 3, at & 7
        window = 0
        for k in range(3):
            window = (window << 8) | (data[byte + k] if byte + k < len(data) else 255)
        entry = (first if index == 0 else others)[(window >> (8 - shift)) & 0xFFFF]
        length, symbol = entry >> 8, entry & 255
        if length == 0:
            break
        if index == 0:
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
