"""Stored values that their header misstates, where the values themselves prove what they are."""

import numpy as np

WRAPPED_AIR_HU = (-1200, -900)
"""What air measures, noise included; codes for outside the circle lie below and prove nothing."""
WRAPPED_SHARE = 0.05
"""Of an image's pixels that must be air for the proof. As unsigned 12 bits they are 2896 to 3196 HU and more:
metal fills no such share of a slice, and air does, for a head's slice shows what is around it."""
NO_AIR_HU = -500.0
"""A scale that begins above has no value for air."""


def unwrapped(stored: np.ndarray, bits: int, slope: float, intercept: float) -> np.ndarray:
    """The values, integers of `bits` bits, as two's complement where an unsigned header hides that.

    Some scanners' slices hold signed HU in 12 bits under Pixel Representation 0 and Rescale Intercept 0 or 1,
    so that air, -1000, reads 3096 (public in the RSNA 2019 challenge). Proven where the scale has no value
    for air (`NO_AIR_HU`), and `WRAPPED_SHARE` of the pixels are air as signed numbers. Else the values are
    returned as they are.
    """
    if stored.dtype.kind != "u" or intercept <= NO_AIR_HU or stored.size == 0:
        return stored
    least, greatest = ((2**bits + (hu - intercept) / slope) for hu in WRAPPED_AIR_HU)
    if least < 2 ** (bits - 1):
        return stored
    air = np.count_nonzero((stored >= least) & (stored <= greatest))
    if air < WRAPPED_SHARE * stored.size:
        return stored
    unused = 8 * stored.dtype.itemsize - bits
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    return (native << unused).view(f"i{stored.dtype.itemsize}") >> unused


def padding_beyond_bits(
    allocated: np.ndarray, stored: np.ndarray, slope: float, intercept: float, least_hu: float
) -> np.ndarray | None:
    """Where pixels hold padding that Bits Stored has no room for, bool (rows, columns); None for nowhere.

    allocated: the pixels with all their bits; stored: their lower Bits Stored, as numbers. Bits above these
    are no value (PS3.5 section 8.1.1) and may be an overlay, which lies over many values. A code for outside
    the circle (-2000 as 63536) is one value, and below `least_hu` as two's complement.
    """
    if allocated is stored:
        return None
    beyond = allocated != stored
    if not beyond.any():
        return None
    codes = allocated[beyond]
    code = int(codes[0]) - (2 ** (8 * codes.itemsize) if codes.dtype.kind == "u" else 0)
    if (codes != codes[0]).any() or code * slope + intercept >= least_hu:
        return None
    return beyond
