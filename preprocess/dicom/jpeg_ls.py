"""JPEG-LS (ISO/IEC 14495-1): how much of an image a scan holds, which only decoding it tells."""

import struct
from dataclasses import dataclass

import numpy as np

from shards.compiled import njit

_RUN_LENGTHS = np.array([*np.repeat(range(4), 4), *np.repeat(range(4, 8), 2), *range(8, 16)], np.int64)
"""J, the orders of run-length codes (A.2.1)."""
_CONTEXTS = 367
"""0 to 364 of gradients, and two of interrupted runs."""


@dataclass(frozen=True)
class Coding:
    """What a scan is coded with (C.2.4.1.1); 0 stands for the default."""

    precision: int
    near: int = 0
    greatest: int = 0
    thresholds: tuple[int, int, int] = (0, 0, 0)
    reset: int = 0

    @classmethod
    def read(cls, precision: int, header: bytes, preset: bytes) -> "Coding":
        """By a scan's header (C.2.3) and an LSE segment of preset parameters (C.2.4.1.1), empty for none."""
        near = header[3] if len(header) > 3 else 0
        if len(preset) != 11:
            return cls(precision, near)
        greatest, first, second, third, reset = struct.unpack(">5H", preset[1:])
        return cls(precision, near, greatest, (first, second, third), reset)

    def parameters(self) -> np.ndarray:
        """int64: NEAR, MAXVAL, T1, T2, T3, RESET."""
        greatest = self.greatest or 2**self.precision - 1
        near = self.near
        factor = (min(greatest, 4095) + 128) // 256
        small = max(256 // (greatest + 1), 2)
        if greatest >= 128:
            usual = [factor * (t - s) + s + m * near for t, s, m in ((3, 2, 3), (7, 3, 5), (21, 4, 7))]
        else:
            usual = [max(s, t // small + m * near) for t, s, m in ((3, 2, 3), (7, 3, 5), (21, 4, 7))]
        found, least = [], near + 1
        for given, default in zip(self.thresholds, usual, strict=True):
            default = default if least <= default <= greatest else least
            least = given or default
            found.append(least)
        return np.array([near, greatest, *found, self.reset or 64], np.int64)


def decode(scan: bytes, coding: Coding, rows: int, columns: int) -> tuple[np.ndarray, int, int]:
    """The samples of a scan of one component, int64 (rows, columns), as far as it goes.

    Also how many there are, and how many bits of the scan are left behind them.
    """
    out = np.zeros((rows, columns), np.int64)
    bits, count = _unstuffed(np.frombuffer(scan, np.uint8))
    done, used = _decode(bits, count, coding.parameters(), _RUN_LENGTHS, out)
    return out, done, count - used


@njit()
def _unstuffed(data: np.ndarray) -> tuple[np.ndarray, int]:
    """The bits without the 0 that is stuffed behind 255 (A.1), packed, and 8 bytes of 0; their number."""
    out = np.zeros(len(data) + 8, np.uint8)
    at = 0
    for k in range(len(data)):
        width = 7 if k and data[k - 1] == 255 else 8
        value = np.int64(data[k]) << (16 - width - (at & 7))
        out[at >> 3] |= (value >> 8) & 255
        out[(at >> 3) + 1] |= value & 255
        at += width
    return out, at


@njit()
def _bits(data: np.ndarray, at: int, count: int) -> int:
    """`count` bits, up to 32, from bit `at`; 0 beyond the end."""
    value, byte = 0, at >> 3
    for k in range(byte, byte + 5):
        value = (value << 8) | (data[k] if k < len(data) else 0)
    return (value >> (40 - (at & 7) - count)) & ((1 << count) - 1)


@njit()
def _golomb(data: np.ndarray, at: int, order: int, limit: int, wide: int) -> tuple[int, int]:
    """A length-limited Golomb code (A.5.3) at bit `at`, and where it ends."""
    zeros, most, end = 0, limit - wide - 1, 8 * len(data)
    while zeros < most and at < end and not (data[at >> 3] >> (7 - (at & 7))) & 1:
        zeros += 1
        at += 1
    if zeros < most:
        return (zeros << order) + _bits(data, at + 1, order), at + 1 + order
    return _bits(data, at + 1, wide) + 1, at + 1 + wide


@njit()
def _level(difference: int, parameters: np.ndarray) -> int:
    """A gradient's region, -4 to 4 (A.3.3)."""
    size = abs(difference)
    level = 0
    if size > parameters[0]:
        level = 1 + (size >= parameters[2]) + (size >= parameters[3]) + (size >= parameters[4])
    return level if difference >= 0 else -level


@njit()
def _rebuilt(predicted: int, error: int, scale: np.ndarray) -> int:
    """The sample of a prediction and its error, which is modulo RANGE (A.4.4, A.4.5)."""
    near, greatest = scale[0], scale[1]
    step = 2 * near + 1
    value = predicted + error * step
    if value < -near:
        value += scale[2] * step
    elif value > greatest + near:
        value -= scale[2] * step
    return min(max(value, 0), greatest)


@njit()
def _order(count: int, total: int) -> int:
    """The Golomb code's k (A.5.1)."""
    order = 0
    while order < 32 and (count << order) < total:
        order += 1
    return order


@njit()
def _regular(
    data: np.ndarray, at: int, state: np.ndarray, context: int, predicted: int, scale: np.ndarray
) -> tuple[int, int]:
    """A sample in regular mode (A.4 to A.6), and where its code ends; state: (contexts, A B C N).

    context: negative where the signs of its gradients are turned; scale: as `_scale` gives it.
    """
    sign, own = (1, state[context]) if context > 0 else (-1, state[-context])
    a, b, c, n = own[0], own[1], own[2], own[3]
    predicted = min(max(predicted + sign * c, 0), scale[1])
    order = _order(n, a)
    mapped, at = _golomb(data, at, order, scale[4], scale[3])
    if scale[0] == 0 and order == 0 and 2 * b <= -n:
        error = (mapped - 1) // 2 if mapped & 1 else -(mapped // 2) - 1
    else:
        error = -((mapped + 1) // 2) if mapped & 1 else mapped // 2
    b += error * (2 * scale[0] + 1)
    a += abs(error)
    if n == scale[5]:
        a, b, n = a >> 1, b >> 1, n >> 1
    n += 1
    if b <= -n:
        b = max(b + n, 1 - n)
        c = max(c - 1, -128)
    elif b > 0:
        b = min(b - n, 0)
        c = min(c + 1, 127)
    own[0], own[1], own[2], own[3] = a, b, c, n
    return _rebuilt(predicted, sign * error, scale), at


@njit()
def _interrupted(
    data: np.ndarray, at: int, state: np.ndarray, left: int, above: int, taken: int, scale: np.ndarray
) -> tuple[int, int]:
    """The sample that ends a run (A.7.2), and where its code ends; taken: bits that the run's end needed."""
    same = 1 if abs(left - above) <= scale[0] else 0
    own = state[365 + same]
    a, below, n = own[0], own[1], own[3]
    order = _order(n, a + (n >> 1) if same else a)
    mapped, at = _golomb(data, at, order, scale[4] - taken - 1, scale[3])
    odd = (mapped + same) & 1
    error = (mapped + same + odd) // 2
    if (order != 0 or 2 * below >= n) == (odd == 1):
        error = -error
    if error < 0:
        below += 1
    a += (mapped + 1 - same) >> 1
    if n == scale[5]:
        a, below, n = a >> 1, below >> 1, n >> 1
    own[0], own[1], own[3] = a, below, n + 1
    sign = -1 if not same and left > above else 1
    return _rebuilt(left if same else above, sign * error, scale), at


@njit()
def _scale(parameters: np.ndarray) -> np.ndarray:
    """int64: NEAR, MAXVAL, RANGE, qbpp, LIMIT, RESET (A.2.1)."""
    near, greatest = parameters[0], parameters[1]
    span = (greatest + 2 * near) // (2 * near + 1) + 1
    wide = bpp = 0
    while (1 << wide) < span:
        wide += 1
    while (1 << bpp) < greatest + 1:
        bpp += 1
    bpp = max(bpp, 2)
    return np.array([near, greatest, span, wide, 2 * (bpp + max(8, bpp)), parameters[5]])


@njit()
def _predicted(left: int, up: int, corner: int) -> int:
    """The median edge detector (A.4.1)."""
    if corner >= max(left, up):
        return min(left, up)
    if corner <= min(left, up):
        return max(left, up)
    return left + up - corner


@njit()
def _decode(
    data: np.ndarray, count: int, parameters: np.ndarray, lengths: np.ndarray, out: np.ndarray
) -> tuple[int, int]:
    """Fill `out` by `count` bits; how many samples that gave, and the bits they took (A.8)."""
    rows, columns = out.shape
    scale = _scale(parameters)
    state = np.zeros((_CONTEXTS, 4), np.int64)
    state[:, 0] = max(2, (scale[2] + 32) >> 6)
    state[:, 3] = 1
    at = run = 0
    before, above = np.zeros(columns, np.int64), np.zeros(columns, np.int64)
    for y in range(rows):
        line = out[y]
        x = 0
        while x < columns:
            up = above[x]
            left = line[x - 1] if x else up
            corner = above[x - 1] if x else before[0]
            ahead = above[x + 1] if x + 1 < columns else up
            context = 81 * _level(ahead - up, parameters) + 9 * _level(up - corner, parameters)
            context += _level(corner - left, parameters)
            if context:
                line[x], at = _regular(data, at, state, context, _predicted(left, up, corner), scale)
                x += 1
            else:
                ended = False
                while x < columns and not ended and at < count:
                    length = 1 << lengths[run]
                    ended = not _bits(data, at, 1)
                    at += 1
                    if ended:
                        length = _bits(data, at, lengths[run])
                        at += lengths[run]
                    elif x + length <= columns:
                        run = min(run + 1, 31)
                    stop = min(x + length, columns)
                    line[x:stop] = left
                    x = stop
                    if ended and x >= columns:
                        return y * columns + x - 1, at  # no run ends behind its line
                if ended:
                    line[x], at = _interrupted(data, at, state, left, above[x], lengths[run], scale)
                    run = max(run - 1, 0)
                    x += 1
            if at > count or (at == count and (x < columns or y < rows - 1)):
                return y * columns + x - (at > count), at
        before, above = above, line
    return rows * columns, at
