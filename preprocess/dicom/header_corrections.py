"""Correction of stored values whose header is wrong, if the values themselves prove it."""

import numpy as np

WRAPPED_AIR_HU = (-1200, -900)
"""HU of air, including noise; codes for outside the circle are below and prove nothing."""
WRAPPED_SHARE = 0.05
"""Share of an image's pixels that must be air for the proof. As unsigned 12 bits they are 2896 to 3196 HU and
more: metal never has this share of a slice, but the air around a head does."""
NO_AIR_HU = -500.0
"""A scale that starts above this has no value for air."""


def unwrapped(stored: np.ndarray, bits: int, slope: float, intercept: float) -> np.ndarray:
    """The values, integers of `bits` bits, as two's complement if the header wrongly says unsigned.

    Slices of some scanners hold signed 12-bit HU under Pixel Representation 0 and Rescale Intercept 0 or 1,
    so that air, -1000, reads 3096 (public in the RSNA 2019 challenge). Proven if the scale has no value for
    air (`NO_AIR_HU`) and `WRAPPED_SHARE` of the pixels are air as signed numbers. Otherwise the values are
    returned unchanged.
    """
    if stored.dtype.kind != "u" or intercept <= NO_AIR_HU or stored.size == 0:
        return stored
    low, high = ((2**bits + (hu - intercept) / slope) for hu in WRAPPED_AIR_HU)
    if low < 2 ** (bits - 1):
        return stored
    air = np.count_nonzero((stored >= low) & (stored <= high))
    if air < WRAPPED_SHARE * stored.size:
        return stored
    unused = 8 * stored.dtype.itemsize - bits
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    return (native << unused).view(f"i{stored.dtype.itemsize}") >> unused


def padding_beyond_bits(
    allocated: np.ndarray, stored: np.ndarray, slope: float, intercept: float, min_hu: float
) -> np.ndarray | None:
    """Pixels with padding values beyond Bits Stored, bool (rows, columns); None if there are none.

    allocated: the pixels with all their bits; stored: their lower Bits Stored, as numbers. Higher bits are
    not part of the value (PS3.5 section 8.1.1) and may be an overlay, which covers many values. A code for
    outside the circle (-2000 as 63536) is a single value, and below `min_hu` as two's complement.
    """
    if allocated is stored:
        return None
    beyond = allocated != stored
    if not beyond.any():
        return None
    codes = allocated[beyond]
    code = int(codes[0]) - (2 ** (8 * codes.itemsize) if codes.dtype.kind == "u" else 0)
    if (codes != codes[0]).any() or code * slope + intercept >= min_hu:
        return None
    return beyond
