"""JPEG-LS (ISO/IEC 14495-1), decoded strictly: only decoding shows whether a scan is complete."""

import struct
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from preprocess.dicom.jpeg_ls_steps import (
    at,
    end_of_run,
    filled_run,
    golomb,
    golomb_order,
    predict,
    reduced,
    regular_error,
    sizes,
)
from shards.compiled import njit

_RUN_LENGTHS = np.array([*np.repeat(range(4), 4), *np.repeat(range(4, 8), 2), *range(8, 16)], np.int64)
"""J, the orders of run-length codes (A.2.1)."""
_CONTEXTS = 367
"""Contexts: 0 to 364 of gradients, and two of interrupted runs."""


@dataclass(frozen=True)
class Scan:
    """The result of decoding a scan."""

    values: np.ndarray
    """uint16 (rows, columns); undefined behind the decoded samples."""
    samples: int
    """Number of decoded samples, in complete lines only."""
    left: int
    """Remaining bits after them."""
    end: int
    """Offset of the marker that ends the scan; -1 if missing."""


@dataclass(frozen=True)
class Coding:
    """The coding parameters of a scan (C.2.4.1.1); 0 is the default."""

    precision: int
    near: int = 0
    max_value: int = 0
    thresholds: tuple[int, int, int] = (0, 0, 0)
    reset: int = 0

    @classmethod
    @lru_cache(maxsize=4)
    def read(cls, precision: int, header: bytes, preset: bytes) -> "Coding":
        """From a scan's header (C.2.3) and an LSE segment of preset parameters (C.2.4.1.1); empty: none."""
        near = header[3] if len(header) > 3 else 0
        if len(preset) != 11:
            return cls(precision, near)
        max_value, first, second, third, reset = struct.unpack(">5H", preset[1:])
        return cls(precision, near, max_value, (first, second, third), reset)

    @cached_property
    def parameters(self) -> np.ndarray:
        """int64: NEAR, MAXVAL, T1, T2, T3, RESET."""
        max_value = self.max_value or 2**self.precision - 1
        near = self.near
        factor = (min(max_value, 4095) + 128) // 256
        small = max(256 // (max_value + 1), 2)
        if max_value >= 128:
            usual = [factor * (t - s) + s + m * near for t, s, m in ((3, 2, 3), (7, 3, 5), (21, 4, 7))]
        else:
            usual = [max(s, t // small + m * near) for t, s, m in ((3, 2, 3), (7, 3, 5), (21, 4, 7))]
        thresholds, lower = [], near + 1
        for given, default in zip(self.thresholds, usual, strict=True):
            default = default if lower <= default <= max_value else lower
            lower = given or default
            thresholds.append(lower)
        return np.array([near, max_value, *thresholds, self.reset or 64], np.int64)

    @cached_property
    def is_sound(self) -> bool:
        """Whether the parameters are valid in JPEG-LS (table C.1, C.2.3)."""
        near, max_value, first, second, third, reset = self.parameters.tolist()
        ordered = near + 1 <= first <= second <= third <= max_value < 2**self.precision
        return ordered and near <= min(255, max_value // 2) and 3 <= reset <= max(255, max_value)


def decode(encoded: bytes, start: int, coding: Coding, rows: int, columns: int) -> Scan:
    """Decode the scan of one component at byte `start`, as far as possible."""
    bits, count, end = _unstuffed(np.frombuffer(encoded, np.uint8), start)
    values = np.empty((rows, columns), np.uint16)
    levels = _levels(*coding.parameters[:5].tolist())
    done, used = _decode(bits, count, coding.parameters, levels, _RUN_LENGTHS, coding.near or None, values)
    return Scan(values, done, count - used, end)


@lru_cache(maxsize=4)
def _levels(near: int, max_value: int, *thresholds: int) -> np.ndarray:
    """int8: the region of a gradient, -4 to 4, by the gradient and MAXVAL (A.3.3)."""
    size = abs(np.arange(-max_value, max_value + 1))
    level = (size > near).astype(np.int8)
    for threshold in thresholds:
        level += (size >= threshold) & (size > near)
    level[:max_value] *= -1
    return level


@njit()
def _unstuffed(data: np.ndarray, at: int) -> tuple[np.ndarray, int, int]:
    """The bits from byte `at` to a marker, without the 0 stuffed after 255 (A.1).

    Returns uint32 words, first bit highest; the number of bits; and the marker's offset, -1 if missing.
    """
    out = np.zeros((len(data) - at) // 4 + 2, np.uint32)
    have, held, count, before, end = 0, 0, 0, 0, -1
    while at < len(data):
        if before != 255 and at + 4 <= len(data):
            one, two, three, four = int(data[at]), int(data[at + 1]), int(data[at + 2]), int(data[at + 3])
            if one != 255 and two != 255 and three != 255 and four != 255:  # nothing is stuffed after them
                if count >= 32:
                    count -= 32
                    out[have] = (held >> count) & 0xFFFFFFFF
                    have += 1
                held = (held << 32) | (one << 24) | (two << 16) | (three << 8) | four
                out[have] = (held >> count) & 0xFFFFFFFF
                have += 1
                before = four
                at += 4
                continue
        value = int(data[at])
        width = 8
        if before == 255:
            if value >= 128:
                end = at - 1
                count -= 8  # the marker's first byte
                held >>= 8
                break
            width = 7
        held = (held << width) | value
        count += width
        if count >= 40:
            count -= 32
            out[have] = (held >> count) & 0xFFFFFFFF
            have += 1
        before = value
        at += 1
    bits = 32 * have + count
    while count > 0:
        out[have] = ((held << 32) >> count) & 0xFFFFFFFF
        have += 1
        count -= 32
    return out, bits, end


@njit()
def _decode(
    data: np.ndarray,
    bits: int,
    parameters: np.ndarray,
    levels: np.ndarray,
    lengths: np.ndarray,
    lossy: int | None,
    out: np.ndarray,
) -> tuple[int, int]:
    """Decode bits into `out`; return the number of samples, in complete lines, and their bits (A.8).

    lossy: NEAR, or None if it is 0, for which numba compiles another function without its arithmetic.
    One loop over inlined steps, so that the state of the reader and of a line stays in registers.
    """
    rows, columns = out.shape
    near = 0 if lossy is None else lossy
    max_value, reset = parameters[1], parameters[5]
    step = 2 * near + 1
    span, wide, limit = sizes(near, max_value)
    # A, B, C and N of a context, and its Golomb parameter k (of an interrupted run: the last one).
    state = np.zeros((_CONTEXTS, 8), np.int32)
    state[:, 0] = max(2, (span + 32) >> 6)
    state[:, 3] = 1
    state[:, 4] = golomb_order(0, 1, max(2, (span + 32) >> 6))
    zeros_of = np.full(256, 64)  # of the next 8 bits; more than any code has if they are all zeros
    for k in range(8):
        zeros_of[1 << (7 - k) : 1 << (8 - k)] = k
    above, line = np.zeros(columns + 2, np.int64), np.zeros(columns + 2, np.int64)
    held, count, word = 0, 0, 0  # bits read but not used yet, and the next word
    run = 0
    for y in range(rows):
        above[columns + 1] = above[columns]
        line[0] = left = above[1]
        corner, up = above[0], above[1]
        behind = levels[at(up - corner + max_value)]
        x = 1
        while x <= columns:
            ahead = above[at(x + 1)]
            beside = levels[at(ahead - up + max_value)]
            context = 81 * beside + 9 * behind + levels[at(corner - left + max_value)]
            if context != 0:
                own, order = state[at(abs(context))], state[at(abs(context)), 4]
                max_zeros = limit - wide - 1
                mapped, held, count, word = golomb(data, held, count, word, zeros_of, order, max_zeros, wide)
                sign = 1 if context > 0 else -1
                predicted = predict(left, up, corner, sign * own[2], max_value)
                error = sign * regular_error(own, mapped, order, near, reset)
                line[at(x)] = left = reduced(predicted + error * step, near, max_value, span)
                behind, corner, up = beside, up, ahead
            else:
                x, ended, run_bits, run, held, count, word = filled_run(
                    data, held, count, word, lengths, run, x, line
                )
                if x > columns:
                    if ended:
                        return y * columns, 32 * word - count  # a run must not extend beyond its line
                    break
                corner, up = above[x - 1], above[x]
                same = 1 if abs(left - up) <= near else 0
                own = state[365 + same]
                total = own[0] + (own[3] >> 1) if same else own[0]
                own[4] = order = golomb_order(own[4], own[3], total)
                max_zeros = limit - run_bits - wide - 1
                mapped, held, count, word = golomb(data, held, count, word, zeros_of, order, max_zeros, wide)
                error = end_of_run(own, mapped, same, order, reset)
                if not same and left > up:
                    error = -error
                predicted = left if same else up
                line[at(x)] = left = reduced(predicted + error * step, near, max_value, span)
                run = max(run - 1, 0)
                corner, up = up, above[at(x + 1)]
                behind = levels[at(up - corner + max_value)]
            x += 1
        for k in range(columns):
            out[y, k] = line[k + 1]
        if 32 * word - count > bits:
            return y * columns, 32 * word - count
        above, line = line, above
    return rows * columns, 32 * word - count
