"""The steps of JPEG-LS's decoder (ISO/IEC 14495-1), inlined into its loop over samples (jpeg_ls.py).

The reader's state is `held`, the bits read but not used yet, `count`, their number, and `word`, the number of
the next 32 bits of `data`. A context is a row of A, B, C, N and the Golomb parameter, int32.
"""

import numpy as np

from shards.compiled import njit


@njit(inline="always")
def at(index: int) -> np.uint64:
    """An index that is not negative; for a signed one numba adds the length in case it is."""
    return np.uint64(index)


@njit(inline="always")
def sizes(near: int, max_value: int) -> tuple[int, int, int]:
    """RANGE, qbpp and LIMIT (A.2.1)."""
    span = (max_value + 2 * near) // (2 * near + 1) + 1
    wide = bpp = 0
    while (1 << wide) < span:
        wide += 1
    while (1 << bpp) < max_value + 1:
        bpp += 1
    return span, wide, 2 * (max(bpp, 2) + max(8, bpp))


@njit(inline="always")
def next_word(data: np.ndarray, word: int) -> int:
    """The next 32 bits; zeros beyond the end."""
    return int(data[at(word)] if word < len(data) else 0)


@njit(inline="always")
def golomb_order(order: int, n: int, total: int) -> int:
    """The Golomb parameter k, from its last value (A.5.1)."""
    while (n << order) < total:
        order += 1
    while order > 0 and (n << (order - 1)) >= total:
        order -= 1
    return order


@njit(inline="always")
def zeros_before_one(
    data: np.ndarray, held: int, count: int, word: int, most: int
) -> tuple[int, int, int, int]:
    """Read bits up to a 1, or `most` zeros: their number, and the reader's state."""
    zeros = 0
    while zeros < most:
        if count == 0:
            held = next_word(data, word)
            count += 32
            word += 1
        count -= 1
        if (held >> count) & 1:
            break
        zeros += 1
    return zeros, held, count, word


@njit(inline="always")
def end_of_run(own: np.ndarray, mapped: int, same: int, order: int, reset: int) -> int:
    """The error of the sample that ends a run, and its context's update (A.7.2)."""
    a, b, n = own[0], own[1], own[3]
    odd = (mapped + same) & 1
    error = (mapped + same + odd) >> 1
    if (order != 0 or 2 * b >= n) == (odd == 1):
        error = -error
    if error < 0:
        b += 1
    a += (mapped + 1 - same) >> 1
    if n == reset:
        a, b, n = a >> 1, b >> 1, n >> 1
    own[0], own[1], own[3] = a, b, n + 1
    return error


@njit(inline="always")
def regular_error(own: np.ndarray, mapped: int, order: int, near: int, reset: int) -> int:
    """The error of a sample in regular mode, and its context's update (A.5.2, A.6).

    The context's next Golomb parameter is computed here, where no later step of this sample waits for it.
    """
    a, b, c, n = own[0], own[1], own[2], own[3]
    error = (mapped >> 1) ^ -(mapped & 1)
    if near == 0 and order == 0 and 2 * b <= -n:
        error = ~error
    b += error * (2 * near + 1)
    a += abs(error)
    if n == reset:
        a, b, n = a >> 1, b >> 1, n >> 1
    n += 1
    if b <= -n:
        b = max(b + n, 1 - n)
        c = max(c - 1, -128)
    elif b > 0:
        b = min(b - n, 0)
        c = min(c + 1, 127)
    own[0], own[1], own[2], own[3] = a, b, c, n
    own[4] = golomb_order(order, n, own[0])
    return error


@njit(inline="always")
def predict(left: int, up: int, corner: int, correction: int, max_value: int) -> int:
    """The median of three, corrected (A.4.1, A.4.2)."""
    median = max(min(left, up), min(max(left, up), left + up - corner))
    return min(max(median + correction, 0), max_value)


@njit(inline="always")
def reduced(value: int, near: int, max_value: int, span: int) -> int:
    """A sample modulo RANGE (A.4.4, A.4.5)."""
    if 0 <= value <= max_value:  # nearly always, so that a predicted branch takes the place of comparisons
        return value
    whole = span * (2 * near + 1)
    if value < -near:
        value += whole
    elif value > max_value + near:
        value -= whole
    return min(max(value, 0), max_value)


@njit(inline="always")
def filled_run(
    data: np.ndarray,
    held: int,
    count: int,
    word: int,
    lengths: np.ndarray,
    run: int,
    x: int,
    line: np.ndarray,
) -> tuple[int, bool, int, int, int, int, int]:
    """Continue a line from x by the sample before it, for the length of a run (A.7.1).

    Returns x behind the run, whether another sample ends it, the bits of its last length and 1, the index of
    the order of the next run, and the reader's state.
    """
    columns, left = len(line) - 2, line[x - 1]
    ended, bits = False, 0
    while x <= columns and not ended:
        if count < 32:
            held = (held << 32) | next_word(data, word)
            count += 32
            word += 1
        count -= 1
        length = 1 << lengths[run]
        ended = not (held >> count) & 1
        if ended:
            count -= lengths[run]  # at most 15 of the 31 remaining bits
            length = (held >> count) & (length - 1)
            bits = lengths[run] + 1
        elif x + length <= columns + 1:
            run = min(run + 1, 31)
        stop = min(x + length, columns + 1)
        line[x:stop] = left
        x = stop
    return x, ended, bits, run, held, count, word


@njit(inline="always")
def golomb(
    data: np.ndarray,
    held: int,
    count: int,
    word: int,
    zeros_of: np.ndarray,
    order: int,
    max_zeros: int,
    wide: int,
) -> tuple[int, int, int, int]:
    """Read a length-limited Golomb code (A.5.3): its value, and the reader's state."""
    if count < 32:
        held = (held << 32) | next_word(data, word)
        count += 32
        word += 1
    zeros = zeros_of[at((held >> (count - 8)) & 255)]
    if zeros < max_zeros and zeros + order < 32:
        count -= zeros + 1 + order
        return (zeros << order) | ((held >> count) & ((1 << order) - 1)), held, count, word
    zeros, held, count, word = zeros_before_one(data, held, count, word, max_zeros)
    if count < 32:
        held = (held << 32) | next_word(data, word)
        count += 32
        word += 1
    if zeros == max_zeros:
        count -= wide + 1  # the 1 after the zeros too
        return ((held >> count) & ((1 << wide) - 1)) + 1, held, count, word
    count -= order
    return (zeros << order) | ((held >> count) & ((1 << order) - 1)), held, count, word
