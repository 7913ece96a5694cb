"""Decoding an image's pixels to Hounsfield units."""

import errno
import hashlib
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom import config as pydicom_config

from preprocess.dicom.catalog import Instance
from preprocess.dicom.header_corrections import Proofs, padding_beyond_bits, unwrapped, without_sign
from preprocess.dicom.image_file import ImageFile
from preprocess.dicom.sources import Source, open_source
from preprocess.reasons import Reason, Rejection
from shards.compiled import njit
from shards.errors import FmctError

AIR_HU = -1000
"""Value of unmeasured voxels: padding, outside the reconstruction circle, outside the scan."""
MIN_HU = -1024
"""Scanners' codes for "outside the circle" (-1500, -2000, -3024) are below; measured air is not."""
BODY_HU = (-500, 3071)
"""Padding within this range, which ends with a 12-bit scale, would erase tissue or metal, so such a header is
ignored. Values above it are not tissue: 65535 of unsigned pixels."""
HOUNSFIELD_TYPES = ("", "HU", "US")
"""Rescale Type (0028,1054): HU is also assumed if it is missing or unspecified (US)."""


@dataclass(frozen=True)
class Slice:
    """One decoded image."""

    hu: np.ndarray
    """int16 (rows, columns) HU; saturates at 32767, beyond the scale of any scanner."""
    digest: bytes
    """SHA-256 of the stored pixel values and their rescaling: equal for copies in any transfer syntax."""


class Decoder:
    """Decodes a series' images one at a time; the last file stays open for its other frames.

    Used as a context manager, which closes the file.
    """

    def __init__(self) -> None:
        self._source: Source | None = None
        self._file = ExitStack()
        self._image: ImageFile | Exception | None = None
        self._proofs = Proofs()

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def decode(self, instance: Instance, place: np.ndarray | None = None) -> Slice:
        """Read one image's pixels and rescale them to HU, in `place` if that has their shape.

        HU = Rescale Slope × stored value + Rescale Intercept, frame by frame (PS3.3 C.11.1.1.2), rounded.
        Photometric Interpretation MONOCHROME1 inverts only the display (C.7.6.3.1.2), so it has no effect
        here. Padding and values below `MIN_HU` become `AIR_HU`.

        Raises Rejection for pixels that are truncated, undecodable, in colour or not in Hounsfield units,
        and FmctError if the file cannot be read.
        """
        with warnings.catch_warnings(), pydicom_config.disable_value_validation():
            # pydicom warns of headers that violate the standard; the rules below decide.
            warnings.simplefilter("ignore")
            with _reading():
                attributes = self._open(instance.source).attributes(instance.frame)
            slope, intercept = _rescale(attributes)
            with _reading():
                image = self._open(instance.source)
                stored, allocated, bits = image.stored(instance.frame)
        if stored.shape != (instance.rows, instance.columns):
            raise Rejection(Reason.INCONSISTENT_GEOMETRY, "the file's matrix differs from the catalog's")
        stored = without_sign(allocated, stored, bits, slope, intercept, self._proofs)
        outside = padding_beyond_bits(allocated, stored, slope, intercept, MIN_HU)
        stored = unwrapped(stored, bits, slope, intercept, self._proofs)
        digest = hashlib.sha256(np.ascontiguousarray(stored, stored.dtype.newbyteorder("<")).data)
        digest.update(np.array([slope, intercept], "<f8").tobytes())
        padding = _padding(attributes, stored.dtype)
        hu = to_hu(stored, slope, intercept, padding, place)
        if outside is not None:
            hu[outside] = AIR_HU
        return Slice(hu, digest.digest())

    @property
    def is_outdated(self) -> bool:
        """Whether decoding the same images again gives others: later ones proved a wrong header."""
        return self._proofs.came_late

    def _open(self, source: Source) -> ImageFile:
        if source != self._source or self._image is None:
            self._close()
            file = self._file.enter_context(open_source(source))
            self._source = source
            try:
                self._image = ImageFile(file, source.size)
            except MemoryError:
                raise
            except Exception as error:
                self._image = error  # for the other frames, which would fail again, one parse each
        if isinstance(self._image, Exception):
            raise self._image
        return self._image

    def _close(self) -> None:
        self._file.close()
        self._source = self._image = None


@contextmanager
def _reading() -> Iterator[None]:
    """Separates failures caused by a file's bytes from those of the machine."""
    try:
        yield
    except (Rejection, MemoryError):
        raise
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # a damaged offset outside a file
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, _describe(error)) from None
        # No path: it may contain a name, and this message is logged.
        why = os.strerror(error.errno)
        raise FmctError(
            f"the catalog's file cannot be read ({why}): mount the export or scan again"
        ) from None
    except Exception as error:
        # Parsers and decoders raise many types for damaged bytes; each means that this image is lost.
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, _describe(error)) from None


_DAMAGE: dict[type[Exception], str] = {
    zlib.error: "the deflated data set is damaged",
    struct.error: "an element or a segment is truncated",
    EOFError: "the file ends within an element",
    OSError: "an offset outside the file",
    IndexError: "a segment of the codestream is truncated",
    OverflowError: "a number is too large",
}


def _describe(error: Exception) -> str:
    """A description by the error's type only: its text may quote a header."""
    causes = (what for kind, what in _DAMAGE.items() if isinstance(error, kind))
    return next(causes, f"the object cannot be parsed ({type(error).__name__})")


def _rescale(attributes: Mapping[str, Any]) -> tuple[float, float]:
    kind = str(attributes.get("RescaleType", "")).strip().upper()
    if kind not in HOUNSFIELD_TYPES:
        raise Rejection(Reason.NOT_HOUNSFIELD, "Rescale Type (0028,1054) is not HU")
    slope = _stated(attributes, "RescaleSlope", "Rescale Slope (0028,1053)")
    intercept = _stated(attributes, "RescaleIntercept", "Rescale Intercept (0028,1052)")
    if not (np.isfinite([slope, intercept]).all() and slope > 0):
        raise Rejection(Reason.NOT_HOUNSFIELD, f"Rescale Slope {slope:g}, Intercept {intercept:g}")
    return slope, intercept


def _stated(attributes: Mapping[str, Any], keyword: str, name: str) -> float:
    value = attributes.get(keyword)
    if value is None or np.isnan(value):
        problem = "missing" if value is None else "malformed, not a number"
        raise Rejection(Reason.NOT_HOUNSFIELD, f"{name} is {problem}: export the images with it")
    return float(value)


def _padding(attributes: Mapping[str, Any], dtype: np.dtype) -> tuple[int, int] | None:
    """Range of stored values that are padding (PS3.3 C.7.5.1.1.2), or None."""
    bounds = [attributes.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    values = [_as_stored(value, dtype) for value in bounds if isinstance(value, int)]
    return (min(values), max(values)) if values and isinstance(bounds[0], int) else None


def _as_stored(value: int, dtype: np.dtype) -> int:
    """The value in the pixels' signedness; its VR often disagrees with Pixel Representation."""
    return int(np.array(value & 0xFFFF, np.uint16).astype(dtype)) if dtype.itemsize == 2 else value


def to_hu(
    stored: np.ndarray,
    slope: float,
    intercept: float,
    padding: tuple[int, int] | None,
    place: np.ndarray | None = None,
) -> np.ndarray:
    """Stored values as int16 HU; padding becomes `AIR_HU`, unless its range overlaps the body's.

    The array is `place`, int16, if that has the shape of `stored`.
    """
    out = np.empty(stored.shape, np.int16) if place is None or place.shape != stored.shape else place
    if padding:
        low, high = (value * slope + intercept for value in padding)
        if low <= BODY_HU[1] and high >= BODY_HU[0]:
            padding = None
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    padding = padding or (1, 0)  # an empty range
    if slope == 1 and intercept.is_integer() and abs(intercept) < 2**16 and native.itemsize == 2:
        _shifted(native, np.int32(intercept), np.int32(padding[0]), np.int32(padding[1]), out)
    else:
        rescaled(native, slope, intercept, *padding, out)
    return out


@njit()
def _shifted(
    stored: np.ndarray, intercept: int, first_padding: int, last_padding: int, out: np.ndarray
) -> None:
    """As `rescaled` with a slope of 1, for values of 16 bits, in int32: a third of the time."""
    for i in range(stored.shape[0]):
        for j in range(stored.shape[1]):
            value = np.int32(stored[i, j])
            hu = np.int32(value + intercept)
            if hu < MIN_HU or first_padding <= value <= last_padding:
                hu = np.int32(AIR_HU)
            out[i, j] = min(hu, np.int32(32767))


@njit()
def rescaled(
    stored: np.ndarray,
    slope: float,
    intercept: float,
    first_padding: int,
    last_padding: int,
    out: np.ndarray,
) -> None:
    """Write stored values to `out`, int16 HU; padding, and values below `MIN_HU`, become `AIR_HU`."""
    for i in range(stored.shape[0]):
        for j in range(stored.shape[1]):
            value = stored[i, j]
            hu = np.rint(value * slope + intercept)
            if hu < MIN_HU or first_padding <= value <= last_padding:
                hu = AIR_HU
            out[i, j] = min(hu, 32767)


def source_digest(digests: Sequence[bytes], positions: np.ndarray, *geometry: object) -> str:
    """SHA-256 of the digests of slices in geometric order with their positions and shared geometry."""
    digest = hashlib.sha256(repr(geometry).encode())
    for one, position in zip(digests, positions, strict=True):
        digest.update(one)
        digest.update(np.asarray(position, "<f8").tobytes())
    return digest.hexdigest()
