"""Correction of stored values whose header is wrong, if the values themselves prove it."""

import numpy as np

WRAPPED_AIR_HU = (-1200, -900)
"""HU of air, including noise; codes for outside the circle are below and prove nothing."""
WRAPPED_SHARE = 0.05
"""Share of an image's pixels that must be air for the proof. As unsigned 12 bits they are 2896 to 3196 HU and
more: metal never has this share of a slice, but the air around a head does."""
NO_AIR_HU = -500.0
"""A scale that starts above this has no value for air."""
NO_BONE_HU = 1500.0
"""A scale that ends below this has no value for dense bone: no scanner stores a head with it."""
BELOW_AIR_HU = -1500.0
"""Below this there is no measured value, only codes for outside the circle."""
MAX_CODES = 2
"""Most different codes in one image."""
MAX_SCALE_HU = 30_710.0
"""The end of the longest scale of a scanner, Siemens's extended one: 12 bits, slope 10, intercept -10240."""
MIN_CODE_HU = -5000.0
"""Below the codes of all scanners (-1500, -2000, -2048, -3024, -3072)."""


class Proofs:
    """Which headers a series' slices have proven wrong: a slice need not prove it alone."""

    def __init__(self) -> None:
        self._proven: set[tuple[str, int, float, float]] = set()
        self._unproven: set[tuple[str, int, float, float]] = set()

    def hold(self, kind: str, bits: int, slope: float, intercept: float, proven: bool) -> bool:
        """Whether this slice (`proven`) or an earlier one with the same header is a proof.

        kind: u or i, as in NumPy, for values that the header calls unsigned or signed.
        """
        header = (kind, bits, slope, intercept)
        if proven:
            self._proven.add(header)
        elif header not in self._proven:
            self._unproven.add(header)
        return header in self._proven

    @property
    def came_late(self) -> bool:
        """Whether an earlier slice than the first proof of its header was left unchanged."""
        return bool(self._proven & self._unproven)


def unwrapped(stored: np.ndarray, bits: int, slope: float, intercept: float, proofs: Proofs) -> np.ndarray:
    """The values, integers of `bits` bits, as two's complement if the header wrongly says unsigned.

    Slices of some scanners hold signed 12-bit HU under Pixel Representation 0 and Rescale Intercept 0 or 1,
    so that air, -1000, reads 3096 (public in the RSNA 2019 challenge). Proven if the scale has no value for
    air (`NO_AIR_HU`) and `WRAPPED_SHARE` of the pixels are air as signed numbers; or if the upper half of the
    numbers has only values beyond every scale (`MAX_SCALE_HU`) that are codes or higher as signed ones, such
    as -2000 as 63536 of 16 bits. Otherwise, and unless `proofs` hold it, the values are returned unchanged.
    """
    if stored.dtype.kind != "u" or stored.size == 0:
        return stored
    header = (bits, slope, intercept)
    proven = _has_wrapped_air(stored, *header) or _is_beyond(stored, *header)
    if not proofs.hold("u", *header, proven):
        return stored
    unused = 8 * stored.dtype.itemsize - bits
    return (_native(stored) << unused).view(f"i{stored.dtype.itemsize}") >> unused


def _has_wrapped_air(stored: np.ndarray, bits: int, slope: float, intercept: float) -> bool:
    if intercept <= NO_AIR_HU:
        return False
    low, high = ((2**bits + (hu - intercept) / slope) for hu in WRAPPED_AIR_HU)
    if low < 2 ** (bits - 1):
        return False
    return int(np.count_nonzero((stored >= low) & (stored <= high))) >= WRAPPED_SHARE * stored.size


def _is_beyond(stored: np.ndarray, bits: int, slope: float, intercept: float) -> bool:
    if (2**bits - 1) * slope + intercept <= MAX_SCALE_HU:
        return False
    upper = stored[stored >= 2 ** (bits - 1)]
    if not upper.size:
        return False
    # The highest number alone is saturated metal, unless as a negative one it is air or a code.
    if -slope + intercept > WRAPPED_AIR_HU[1] and (upper == 2**bits - 1).all():
        return False
    least = int(upper.min())
    return least * slope + intercept > MAX_SCALE_HU and (least - 2**bits) * slope + intercept >= MIN_CODE_HU


def without_sign(
    allocated: np.ndarray,
    stored: np.ndarray,
    bits: int,
    slope: float,
    intercept: float,
    proofs: Proofs,
) -> np.ndarray:
    """The values, integers of `bits` bits, as unsigned if the header wrongly says signed.

    allocated: the pixels with all their bits; `stored` itself if they are equal or unknown. Values of 0 to
    4095 under Pixel Representation 1, Bits Stored 12 and Rescale Intercept -1024 would be at most 1023 HU,
    and denser bone below -2048 HU, as air. Proven if the scale has no value for dense bone (`NO_BONE_HU`),
    and more than `MAX_CODES` different values are below every measured one (`BELOW_AIR_HU`), with a sign that
    does not fill their pixels. Otherwise, and unless `proofs` hold it, the values are returned unchanged.
    """
    if stored.dtype.kind != "i" or allocated is stored:
        return stored
    if (2 ** (bits - 1) - 1) * slope + intercept >= NO_BONE_HU:
        return stored
    below = stored[(stored * slope + intercept < BELOW_AIR_HU) & (allocated >= 0)]
    if not proofs.hold("i", bits, slope, intercept, len(np.unique(below)) > MAX_CODES):
        return stored
    return _native(allocated).view(f"u{allocated.dtype.itemsize}") & (2**bits - 1)


def _native(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("="), copy=False)


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
