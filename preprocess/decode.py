"""One instance's pixels as Hounsfield units."""

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import pydicom
from pydicom import config as pydicom_config
from pydicom.uid import UID

from preprocess.catalog import Instance
from preprocess.header import transfer_syntax
from preprocess.reasons import Reason, Rejection
from shards.errors import FmctError

AIR_HU = -1000
"""Stands where nothing was measured: padding, outside the reconstruction circle, outside the scan."""
LEAST_HU = -1024
"""Scanners' codes for "outside the circle" (-1500, -2000, -3024) lie below; measured air does not."""
PADDING_BELOW_HU = -500
"""A Pixel Padding Value of at least this would erase tissue; such a header is not believed."""
HOUNSFIELD_TYPES = ("", "HU", "US")
"""Rescale Type (0028,1054): HU is also meant where it is absent or unspecified (US)."""

_PIXEL_TAGS = [
    *("SOPClassUID", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue"),
    *("PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "RescaleType", "PixelData"),
    *("PlanarConfiguration", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
]


@dataclass(frozen=True)
class Slice:
    """One decoded image."""

    hu: np.ndarray
    """int16 (rows, columns) HU; saturates at 32767, which no scanner's scale reaches."""
    digest: bytes
    """SHA-256 of the stored pixel values and their rescaling: equal for copies in any transfer syntax."""


def decode(instance: Instance) -> Slice:
    """Read one instance's pixels and rescale them to HU.

    HU = Rescale Slope × stored value + Rescale Intercept, slice by slice (PS3.3 C.11.1.1.2), rounded.
    Photometric Interpretation MONOCHROME1 turns only the display round (C.7.6.3.1.2), so it changes
    nothing here. Padding, and whatever lies below `LEAST_HU`, becomes `AIR_HU`.

    Raises Rejection for pixels that are truncated, undecodable, in colour or not in Hounsfield units,
    and FmctError where the file cannot be read at all.
    """
    with warnings.catch_warnings(), pydicom_config.disable_value_validation():
        # Headers that bend the standard are told of by warnings; the rules below decide.
        warnings.simplefilter("ignore")
        data = _read(instance.path)
        stored = _stored_values(data)
        slope, intercept = _rescale(data)
        padding = _padding(data, stored.dtype)
    if stored.shape != (instance.rows, instance.columns):
        raise Rejection(Reason.INCONSISTENT_GEOMETRY, "the file's matrix is not the catalog's")
    digest = hashlib.sha256(stored.astype(stored.dtype.newbyteorder("<"), copy=False).tobytes())
    digest.update(np.array([slope, intercept], "<f8").tobytes())
    return Slice(_to_hu(stored, slope, intercept, padding), digest.digest())


def _read(path: Path) -> pydicom.FileDataset:
    try:
        data = pydicom.dcmread(path, force=True, specific_tags=_PIXEL_TAGS)
    except OSError as error:
        # No path: it may spell a name, and this message reaches logs.
        why = os.strerror(error.errno or 0)
        raise FmctError(
            f"the catalog's file cannot be read ({why}): mount the export or scan again"
        ) from None
    except Exception as error:
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, type(error).__name__) from None
    data.file_meta.TransferSyntaxUID = UID(transfer_syntax(data))
    return data


def _stored_values(data: pydicom.FileDataset) -> np.ndarray:
    """Integer (rows, columns) stored values, sign-extended from Bits Stored."""
    if data.get("SamplesPerPixel", 1) != 1:
        raise Rejection(Reason.NOT_GRAYSCALE, "not one sample per pixel")
    if "PixelData" not in data:
        raise Rejection(Reason.TRUNCATED_PIXEL_DATA, "the file ends before its pixel data")
    try:
        expected = data.Rows * data.Columns * data.BitsAllocated // 8
        if not data.file_meta.TransferSyntaxUID.is_encapsulated and len(data.PixelData) < expected:
            raise Rejection(Reason.TRUNCATED_PIXEL_DATA, f"{len(data.PixelData)} bytes of {expected}")
        return data.pixel_array
    except Rejection:
        raise
    except Exception as error:
        # Decoders raise many types on a damaged stream; each means that this image is lost.
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, type(error).__name__) from None


def _rescale(data: pydicom.FileDataset) -> tuple[float, float]:
    kind = str(data.get("RescaleType") or "").strip().upper()
    if kind not in HOUNSFIELD_TYPES:
        raise Rejection(Reason.NOT_HOUNSFIELD, "Rescale Type is not HU")
    try:
        slope, intercept = float(data.RescaleSlope), float(data.RescaleIntercept)
    except (AttributeError, TypeError, ValueError):
        raise Rejection(Reason.NOT_HOUNSFIELD, "no Rescale Slope and Intercept") from None
    if not (np.isfinite([slope, intercept]).all() and slope > 0):
        raise Rejection(Reason.NOT_HOUNSFIELD, f"Rescale Slope {slope:g}, Intercept {intercept:g}")
    return slope, intercept


def _padding(data: pydicom.FileDataset, dtype: np.dtype) -> tuple[int, int] | None:
    """Least and greatest stored value that is padding (PS3.3 C.7.5.1.1.2), or None."""
    bounds = [data.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    values = [_as_stored(value, dtype) for value in bounds if isinstance(value, int)]
    return (min(values), max(values)) if values and isinstance(bounds[0], int) else None


def _as_stored(value: int, dtype: np.dtype) -> int:
    """The value in the pixels' signedness; writers disagree with Pixel Representation about its VR."""
    return int(np.array(value & 0xFFFF, np.uint16).astype(dtype)) if dtype.itemsize == 2 else value


def _to_hu(stored: np.ndarray, slope: float, intercept: float, padding: tuple[int, int] | None) -> np.ndarray:
    if padding is None or padding[1] * slope + intercept >= PADDING_BELOW_HU:
        padding = (1, 0)  # an empty range
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    return _rescaled(native, slope, intercept, *padding)


@numba.njit(cache=True, nogil=True)
def _rescaled(
    stored: np.ndarray, slope: float, intercept: float, first_padding: int, last_padding: int
) -> np.ndarray:
    out = np.empty(stored.shape, np.int16)
    for i in range(stored.shape[0]):
        for j in range(stored.shape[1]):
            value = stored[i, j]
            hu = np.rint(value * slope + intercept)
            if hu < LEAST_HU or first_padding <= value <= last_padding:
                hu = AIR_HU
            out[i, j] = min(hu, 32767)
    return out


def source_digest(slices: Sequence[Slice], positions: np.ndarray, *geometry: object) -> str:
    """SHA-256 of decoded slices in geometric order with their positions and shared geometry."""
    digest = hashlib.sha256(repr(geometry).encode())
    for decoded, position in zip(slices, positions, strict=True):
        digest.update(decoded.digest)
        digest.update(np.asarray(position, "<f8").tobytes())
    return digest.hexdigest()
