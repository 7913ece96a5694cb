"""Values of an array as HU: padding, undefined values, and implausible values."""

from collections.abc import Iterable

import numpy as np
from scipy import ndimage

from preprocess.dicom.decode import AIR_HU, MIN_HU
from preprocess.reasons import Reason, Rejection

AIR_BELOW_HU = -500
"""Halfway between air and soft tissue."""
MAX_TISSUE = 0.03
"""Share of tissue among the voxels beside undefined ones: a nose or ear that touches the field's circle gives
1 %, a head masked out of its scan nearly all."""

_LIMITS = np.iinfo(np.int16)


def to_hu(values: np.ndarray) -> np.ndarray:
    """int16 HU of any real numbers, rounded and saturated; NaN and scanners' padding values become air.

    Values below the scanners' codes for padding outside the circle are air, as in decoding DICOM.
    """
    if values.dtype.kind not in "iuf":
        raise Rejection(Reason.NOT_HOUNSFIELD, f"values of type {values.dtype}: expected real numbers")
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=AIR_HU)
    hu = np.rint(np.clip(values, _LIMITS.min, _LIMITS.max)).astype(np.int16)
    hu[hu < MIN_HU] = AIR_HU
    return hu


def require_defined(slices: Iterable[np.ndarray]) -> None:
    """Raise Rejection(not_hounsfield) for infinite values, and for NaN that are not certainly air.

    slices: (rows, columns) each, in order. NaN count as air if each region of them reaches its slice's edge
    and the voxels beside them, in the slice and in its neighbours, are air: this holds for unmeasured areas,
    but not for a masked or damaged head.
    """
    beside = tissue = 0
    before: np.ndarray | None = None
    for number, one in enumerate(slices):
        if np.isinf(one).any():
            raise Rejection(Reason.NOT_HOUNSFIELD, f"infinite values in slice {number}; convert it again")
        undefined = np.isnan(one)
        rims = []
        if undefined.any():
            labels, count = ndimage.label(undefined)
            edges = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
            if count > len(np.unique(edges[edges > 0])):
                raise Rejection(
                    Reason.NOT_HOUNSFIELD,
                    f"NaN inside slice {number}, not certainly air; convert it again",
                )
            rims.append(one[ndimage.binary_dilation(undefined) & ~undefined])
        if before is not None:
            rims += [one[np.isnan(before) & ~undefined], before[undefined & ~np.isnan(before)]]
        beside += sum(len(rim) for rim in rims)
        tissue += sum(int((rim > AIR_BELOW_HU).sum()) for rim in rims)
        before = one
    if tissue > MAX_TISSUE * beside:
        raise Rejection(
            Reason.NOT_HOUNSFIELD,
            f"{tissue} of {beside} voxels beside NaN are not air; give the unmasked scan",
        )
