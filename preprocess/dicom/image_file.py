"""An open DICOM image: its description is read once, its frames are decoded one at a time."""

import io
import math
import struct
from collections.abc import Callable
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate, get_frame, parse_fragments
from pydicom.pixels import as_pixel_options, get_decoder
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.pixels.utils import get_j2k_parameters
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from preprocess.dicom import rle
from preprocess.dicom.bounded import Bounded
from preprocess.dicom.codestream import read_whole
from preprocess.dicom.deflated_end import read_to_end
from preprocess.dicom.frames import PER_FRAME, SHARED, frame_attributes, frame_count, has_functional_groups
from preprocess.dicom.geometry import LARGEST_MATRIX
from preprocess.dicom.header import read_attributes, transfer_syntax
from preprocess.dicom.values import factor, integer, text
from preprocess.reasons import Reason, Rejection

_VALUES: dict[str, Callable[[Dataset, str], Any]] = {
    "PixelPaddingValue": integer,
    "PixelPaddingRangeLimit": integer,
    "RescaleSlope": factor,
    "RescaleIntercept": factor,
    "RescaleType": text,
}
"""What turns stored values into HU, and how it is read."""
_KEYWORDS = [
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows"),
    *("Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ExtendedOffsetTable"),
    *("BurnedInAnnotation", "ExtendedOffsetTableLengths", SHARED, PER_FRAME, *_VALUES),
]
_TAGS = [Tag(keyword) for keyword in _KEYWORDS]
_NEEDED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")
_WHOLE = {name: Tag(name) for name in (*_NEEDED, "HighBit", "SamplesPerPixel", "PlanarConfiguration")}
"""Whole numbers; those that no image can do without are `_NEEDED`."""
_OFFSETS = Tag("ExtendedOffsetTable")
_JPEG = (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes)
_INTERPRETATIONS = [one.value for one in PhotometricInterpretation]
_GE_BIG_ENDIAN = UID("1.2.840.113619.5.2")
"""Of GE's older consoles: a data set in implicit little endian, but for its pixels."""
_LONG_VRS = (b"OB", b"OW", b"UN")
"""VRs that pixel data bear; their length has four bytes after two reserved ones (PS3.5 section 7.1.2)."""

_UNDEFINED_LENGTH = 0xFFFFFFFF
"""Of encapsulated pixel data alone (PS3.5 section A.4)."""
_BLOCK_BYTES = 512
"""Writers that fill up pixel data to whole blocks add less; a row or a column of 256 pixels is no less."""

MOST_EXPANSION = 2
"""Of pixels by a codec: RLE makes 129 bytes of 128 at worst (PS3.5 section G.3.1), others less."""
_DECODER_BYTES = 32
"""That a decoder takes at most for a pixel, beside 32 MiB: its value twice, and coefficients of 32 bits."""
_TABLE_BYTES = 2**20
"""Of offsets, fragments' heads, and what a codestream holds beside pixels."""


class ImageFile:
    """The images in one DICOM file, which the caller keeps open as long as this is used.

    Whatever is wrong with the file raises one of pydicom's, its decoders' or struct's many exceptions, or
    Rejection where the reason is known.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        """size: bytes of the file."""
        data, file = read_attributes(file, size, _TAGS)
        syntax = UID(transfer_syntax(data))
        self._big_endian = syntax in (ExplicitVRBigEndian, _GE_BIG_ENDIAN)
        if syntax == _GE_BIG_ENDIAN:
            syntax = ImplicitVRLittleEndian
        _require_decoder(syntax)
        encoding = (False, True) if syntax == DeflatedExplicitVRLittleEndian else data.original_encoding
        self._vr, self._length = _enter_pixel_data(file, *encoding)
        self._data, self._syntax, self._file, self._start = data, syntax, file, file.tell()
        self._size, self._frames = size, frame_count(data, size)
        self._unread_end = syntax == DeflatedExplicitVRLittleEndian
        self._numbers = _whole_numbers(data)
        if syntax.is_encapsulated:
            _require_fragments(file, size)

    def attributes(self, frame: int) -> dict[str, Any]:
        """A frame's `_VALUES` by its functional groups, else the object's; without the absent ones."""
        grouped = frame_attributes(self._data, frame) if has_functional_groups(self._data) else self._data
        holders = {name: grouped if name in grouped else self._data for name in _VALUES}
        found = {name: read(holders[name], name) for name, read in _VALUES.items()}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def bits_stored(self) -> int:
        """Bits Stored (0028,0101)."""
        return self._numbers["BitsStored"]

    def stored(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Integer (rows, columns) stored values of frame number `frame`, sign-extended from Bits Stored.

        Also the pixels with all their bits, where values begin at bit 0; else the same again.
        """
        data, numbers = self._data, self._numbers
        rows, columns, allocated, bits, representation = (numbers[name] for name in _NEEDED)
        if numbers.get("SamplesPerPixel", 1) != 1:
            raise Rejection(Reason.NOT_GRAYSCALE, "not one sample per pixel")
        if data.get("PhotometricInterpretation") == "PALETTE COLOR":
            raise Rejection(Reason.NOT_GRAYSCALE, "pixels are colours of a palette")
        if data.get("BurnedInAnnotation") == "YES":  # (0028,0301), enough to identify the patient
            raise Rejection(Reason.BURNED_IN_TEXT, "Burned In Annotation: its pixels may name the patient")
        if max(rows, columns) > LARGEST_MATRIX:
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, f"a matrix of {rows} by {columns}")
        if allocated not in (8, 16, 32):
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, f"Bits Allocated is {allocated}")
        if not 0 < bits <= allocated or representation not in (0, 1):
            detail = f"Bits Stored is {bits} of {allocated}, Pixel Representation {representation}"
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, detail)
        encoded = self._encoded(frame)
        if not self._syntax.is_encapsulated and allocated == 16:
            kind = f"{'>' if self._big_endian else '<'}{'ui'[representation]}2"
            values = np.frombuffer(encoded, kind).reshape(rows, columns)
        elif not self._syntax.is_encapsulated:
            options = self._options | {"number_of_frames": 1, "correct_unused_bits": False}
            values, _ = get_decoder(self._syntax).as_array(encoded, index=0, raw=True, **options)
        elif self._syntax == RLELossless:
            values = rle.decode(encoded, rows, columns, allocated)
            values = values.view(f"<{'ui'[representation]}{values.itemsize}")
        else:
            values = self._decoded(encoded)
            return values, values
        if bits == allocated:
            return values, values
        # Old equipment's begin above it (PS3.5 section 8.1.1); what stands outside may be an overlay.
        high = numbers.get("HighBit", bits - 1)
        above = allocated - 1 - high if bits <= high < allocated else allocated - bits
        if above == allocated - bits and _fits(values, bits):
            return values, values
        stored = (values << above) >> (allocated - bits)
        return stored, values if above == allocated - bits else stored

    def _decoded(self, encoded: bytes) -> np.ndarray:
        """The values of a JPEG (2000) codestream, which begin at bit 0."""
        rows, columns, allocated, bits, representation = (self._numbers[name] for name in _NEEDED)
        if self._data.get("PhotometricInterpretation") not in _INTERPRETATIONS:
            detail = "Photometric Interpretation (0028,0004) is absent or none of the standard's"
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, detail)
        samples = read_whole(encoded, rows, columns)
        if samples is not None and self._syntax in _JPEG:
            # Samples of JPEG-LS may be narrower than pixels, and tell how wide a signed value is.
            exact = self._syntax in JPEGLSTransferSyntaxes
            width = 8 * samples.values.itemsize
            if width != allocated and not (exact and width < allocated):
                detail = f"samples of {samples.precision} bits in pixels of {allocated}"
                raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, detail)
            unsigned = samples.values.astype(f"u{allocated // 8}", copy=False)
            values = unsigned.view(f"{'ui'[representation]}{allocated // 8}")
            unused = allocated - (samples.precision if exact and representation else bits)
            return values if _fits(values, allocated - unused) else (values << unused) >> unused
        options = self._options | {"number_of_frames": 1, "correct_unused_bits": True}
        try:
            # It is told how wide values are.
            values, _ = get_decoder(self._syntax).as_array(
                encapsulate([encoded], has_bot=False), index=0, raw=True, **options
            )
        except RuntimeError:  # pydicom's for whatever its plugins raise, which is MemoryError too
            np.empty(rows * columns * _DECODER_BYTES + 2**25, np.uint8)  # raises it, then
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "the decoder rejects the codestream") from None
        signed = get_j2k_parameters(encoded).get("is_signed") and not representation
        if signed and (values >> (bits - 1)).any():
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "signed values, but an unsigned header")
        return values

    @cached_property
    def _options(self) -> dict[str, Any]:
        """What pydicom's decoders ask for, numbers by the VR of the standard whichever the file states."""
        for name, value in self._numbers.items():
            self._data[name] = DataElement(Tag(name), "US", value)
        return as_pixel_options(
            self._data, transfer_syntax_uid=self._syntax, pixel_keyword="PixelData", pixel_vr=self._vr
        )

    def _encoded(self, frame: int) -> bytes:
        """The bytes of one frame, uncompressed or a codestream."""
        self._file.seek(self._start)
        count = math.prod(self._numbers[name] for name in ("Rows", "Columns", "BitsAllocated")) // 8
        if self._syntax.is_encapsulated:
            offsets = self._options.get("extended_offsets") if _OFFSETS in self._data else None
            bounded: Any = Bounded(self._file, self._size, MOST_EXPANSION * count + _TABLE_BYTES)
            return get_frame(bounded, frame, extended_offsets=offsets, number_of_frames=self._frames)
        self._require_plain(count)
        if self._unread_end:
            found = read_to_end(self._file, self._length, frame * count, count)
            self._unread_end = False
        else:
            self._file.seek(frame * count, io.SEEK_CUR)
            found = self._file.read(min(count, max(self._length - frame * count, 0)))
        if len(found) < count:
            raise Rejection(Reason.TRUNCATED_PIXEL_DATA, f"{len(found)} bytes of {count}")
        return found

    def _require_plain(self, count: int) -> None:
        """Raise Rejection(undecodable_pixel_data) unless plain frames of `count` bytes are all there is.

        A header whose matrix, depth or number of frames is too small would cut an image out of another.
        """
        if self._length == _UNDEFINED_LENGTH:
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, "fragments under an uncompressed transfer syntax")
        expected = count * self._frames
        if self._length - expected >= _BLOCK_BYTES:
            detail = f"{self._length} bytes of pixel data, but the header declares {expected}"
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, detail)


def _fits(values: np.ndarray, bits: int) -> bool:
    """Whether integers are as their lower `bits` bits say: at a tenth of the time that shifting takes."""
    if values.dtype.kind == "u":
        return bool(values.max() < 2**bits)
    return bool(-(2 ** (bits - 1)) <= values.min() and values.max() < 2 ** (bits - 1))


def _whole_numbers(data: FileDataset) -> dict[str, int]:
    """The attributes of `_WHOLE` that there are, whichever VR the file states.

    Raises Rejection(undecodable_pixel_data) where one is no number, or of `_NEEDED` and absent.
    """
    found = {}
    for name, tag in _WHOLE.items():
        value = integer(data, name)
        if value is not None and value >= 0:
            found[name] = value
        elif tag in data:
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, f"{name} is not a whole number")
    if missing := [name for name in _NEEDED if name not in found]:
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, f"{missing[0]} is absent")
    return found


def _require_decoder(syntax: UID) -> None:
    """Raise Rejection(undecodable_pixel_data), naming the transfer syntax if it is the standard's."""
    try:
        get_decoder(syntax)
    except NotImplementedError:
        of_dicom = syntax.is_valid and syntax.startswith("1.2.840.10008.")
        name = f"transfer syntax {syntax}" if of_dicom else "a transfer syntax that is not DICOM's"
        raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, f"no decoder of {name}") from None


def _enter_pixel_data(file: BinaryIO, implicit: bool, little: bool) -> tuple[str, int]:
    """Go to the value of the element that comes next, Pixel Data (7FE0,0010); returns VR and length."""
    endian = "<" if little else ">"
    head = file.read(8)
    if len(head) < 8:
        raise Rejection(Reason.TRUNCATED_PIXEL_DATA, "the file ends before its pixel data")
    if struct.unpack(endian + "HH", head[:4]) != (0x7FE0, 0x0010):
        raise Rejection(Reason.NOT_HOUNSFIELD, "floating-point pixel data")
    if implicit or head[4:6] not in _LONG_VRS:
        return "OW", struct.unpack(endian + "L", head[4:])[0]
    return head[4:6].decode(), struct.unpack(endian + "L", file.read(4))[0]


def _require_fragments(file: BinaryIO, size: int) -> None:
    """Raise Rejection(truncated_pixel_data) unless all fragments of encapsulated pixel data are whole.

    Decoders fill in what a cut stream lacks. A missing end of the sequence costs no pixels.
    """
    start = file.tell()
    # The first item is the offset table (PS3.5 section A.4).
    bounded: Any = Bounded(file, size)
    count, offsets = parse_fragments(bounded)
    if count < 2:
        raise Rejection(Reason.TRUNCATED_PIXEL_DATA, "no fragment of encapsulated pixel data")
    file.seek(offsets[-1] + 4)
    end = offsets[-1] + 8 + struct.unpack("<L", file.read(4))[0]
    if end > size:
        raise Rejection(Reason.TRUNCATED_PIXEL_DATA, f"the last fragment lacks {end - size} bytes")
    file.seek(start)
