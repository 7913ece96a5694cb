"""The header attributes of an object's pixels, read once for all images of a series with equal ones."""

from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any, BinaryIO

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.pixels import as_pixel_options, get_decoder
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
)

from preprocess.dicom.frames import PER_FRAME, SHARED, frame_attributes, frame_count, has_functional_groups
from preprocess.dicom.header import read_attributes, transfer_syntax
from preprocess.dicom.values import factor, integer, text
from preprocess.dicom.walk import WINDOW, dataset, walked, wanting
from preprocess.reasons import Reason, Rejection

_VALUES: dict[str, Callable[[Dataset, str], Any]] = {
    "PixelPaddingValue": integer,
    "PixelPaddingRangeLimit": integer,
    "RescaleSlope": factor,
    "RescaleIntercept": factor,
    "RescaleType": text,
}
"""Attributes for the conversion of stored values to HU, with their readers."""
_KEYWORDS = [
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows"),
    *("Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ExtendedOffsetTable"),
    *("BurnedInAnnotation", "ExtendedOffsetTableLengths", SHARED, PER_FRAME, *_VALUES),
]
_TAGS = [Tag(keyword) for keyword in _KEYWORDS]
_WANTED = wanting(_TAGS)
NEEDED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")
"""Integer attributes that are required for every image."""
_WHOLE = {name: Tag(name) for name in (*NEEDED, "HighBit", "SamplesPerPixel", "PlanarConfiguration")}
_OFFSETS, _FRAMES = Tag("ExtendedOffsetTable"), Tag("NumberOfFrames")
_GE_BIG_ENDIAN = UID("1.2.840.113619.5.2")
"""The transfer syntax of GE's older consoles: implicit little endian except for the pixels."""


class PixelHeader:
    """Attributes of the images in one file, or in several with the same ones."""

    def __init__(self, data: Dataset, stated: str) -> None:
        """data: the attributes `_KEYWORDS`; stated: the transfer syntax UID."""
        syntax = UID(stated)
        self.big_endian = syntax in (ExplicitVRBigEndian, _GE_BIG_ENDIAN)
        self.syntax = ImplicitVRLittleEndian if syntax == _GE_BIG_ENDIAN else syntax
        self.is_deflated = syntax == DeflatedExplicitVRLittleEndian
        self.is_jpeg_ls = syntax in JPEGLSTransferSyntaxes
        self.is_jpeg_2000 = syntax in JPEG2000TransferSyntaxes
        self.encoding = (False, True) if self.is_deflated else data.original_encoding
        self._data = data

    def frames(self, size: int) -> int:
        """Number of Frames of a file of `size` bytes; raises Rejection as `frame_count`."""
        return frame_count(self._data, size) if self._is_grouped or _FRAMES in self._data else 1

    def attributes(self, frame: int) -> dict[str, Any]:
        """A frame's `_VALUES` from its functional groups, else from the object; without missing ones."""
        return _attributes(self._data, frame) if self._is_grouped else self._own

    @cached_property
    def decoder(self) -> Any:
        """pydicom's; raises Rejection(undecodable_pixel_data), naming the transfer syntax if it is known."""
        try:
            return get_decoder(self.syntax)
        except NotImplementedError:
            of_dicom = self.syntax.is_valid and self.syntax.startswith("1.2.840.10008.")
            name = f"transfer syntax {self.syntax}" if of_dicom else "a transfer syntax outside DICOM"
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, f"no decoder for {name}") from None

    @cached_property
    def is_encapsulated(self) -> bool:
        """Whether the pixels are fragments of codestreams; only for a transfer syntax with a decoder."""
        return bool(self.syntax.is_encapsulated)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The existing attributes of `_WHOLE`, regardless of the stated VR.

        Raises Rejection(undecodable_pixel_data) if one is not a number, or one of `NEEDED` is missing.
        """
        values = {}
        for name, tag in _WHOLE.items():
            value = integer(self._data, name)
            if value is not None and value >= 0:
                values[name] = value
            elif tag in self._data:
                raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, f"{name} is not a whole number")
        if missing := [name for name in NEEDED if name not in values]:
            raise Rejection(Reason.UNDECODABLE_PIXEL_DATA, f"{missing[0]} is missing")
        return values

    @cached_property
    def interpretation(self) -> str:
        """Photometric Interpretation (0028,0004); empty if missing."""
        return text(self._data, "PhotometricInterpretation")

    @cached_property
    def burned_in(self) -> str:
        """Burned In Annotation (0028,0301); empty if missing."""
        return text(self._data, "BurnedInAnnotation")

    @cached_property
    def offsets(self) -> Any:
        """The extended offset table and its lengths, if any."""
        return self.options.get("extended_offsets") if _OFFSETS in self._data else None

    @cached_property
    def options(self) -> dict[str, Any]:
        """Options of pydicom's decoders; numbers by the standard's VR, regardless of the stated one."""
        for name, value in self.numbers.items():
            self._data[name] = DataElement(Tag(name), "US", value)
        return as_pixel_options(self._data, transfer_syntax_uid=self.syntax, pixel_keyword="PixelData")

    @cached_property
    def _is_grouped(self) -> bool:
        return has_functional_groups(self._data)

    @cached_property
    def _own(self) -> dict[str, Any]:
        return _attributes(self._data)


def read_pixel_header(file: BinaryIO, size: int) -> tuple[PixelHeader, BinaryIO]:
    """The header of an object of `size` bytes, and the file at its pixels: another one if it is deflated.

    Raises as `preprocess.dicom.header.read_attributes`.
    """
    if found := walked(file, file.read(WINDOW), size, _WANTED):
        found.file.seek(found.pixels)
        # At the same position, so that they are equal in all files.
        elements = tuple(one._replace(value_tell=0) for one in found.elements.values())
        return shared_header(elements, found.transfer_syntax), found.file
    file.seek(0)
    data, file = read_attributes(file, size, _TAGS)
    return PixelHeader(data, transfer_syntax(data)), file


@lru_cache(maxsize=8)
def shared_header(elements: tuple[RawDataElement, ...], syntax: str) -> PixelHeader:
    """The header of all files with these elements, which are interpreted once."""
    return PixelHeader(dataset({one.tag: one for one in elements}), syntax)


def _attributes(data: Dataset, frame: int | None = None) -> dict[str, Any]:
    """frame: None for an object without functional groups."""
    grouped = data if frame is None else frame_attributes(data, frame)
    holders = {name: grouped if name in grouped else data for name in _VALUES}
    attributes = {name: read(holders[name], name) for name, read in _VALUES.items()}
    return {name: value for name, value in attributes.items() if value is not None}
