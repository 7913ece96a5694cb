"""The DICOM files of a series' images; the elements that all of them share are encoded once."""

from functools import cache

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, validate_file_meta
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.uid import UID, ExplicitVRLittleEndian

from preprocess.demo.writer import COMPRESSED, encode_pixels, file_meta

_PREAMBLE = bytes(128) + b"DICM"
_GROUP_LENGTH, _INSTANCE = 0x00020000, 0x00020003
"""File Meta Information Group Length, Media Storage SOP Instance UID."""
_PIXEL_MODULE = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)
"""What pydicom compresses pixels by (PS3.3 C.7.6.3)."""


class SeriesFiles:
    """Encodes images that differ in a few elements, each to the bytes that `encode` gives for all of them."""

    def __init__(self, shared: Dataset, syntax: str) -> None:
        """shared: the elements of every image; syntax: the transfer syntax UID, not a deflated one."""
        self._shared, self._syntax = shared, UID(syntax)
        self._elements = _encoded(shared, self._syntax)
        meta = file_meta(shared.SOPClassUID, shared.SeriesInstanceUID, syntax)
        validate_file_meta(meta)
        self._meta = _encoded(meta, ExplicitVRLittleEndian)

    def file(self, own: Dataset) -> bytes:
        """The file (PS3.10) of an image with the elements `own` (`slice_elements`), which are changed."""
        if self._syntax in COMPRESSED:
            for keyword in _PIXEL_MODULE:
                own.add(self._shared[keyword])
        encode_pixels(own, self._syntax)
        elements = _joined(self._elements | _encoded(own, self._syntax))
        return _PREAMBLE + self._file_meta(own.SOPInstanceUID) + elements

    def _file_meta(self, sop_uid: UID) -> bytes:
        """The File Meta Information (PS3.10 section 7.1)."""
        instance = _element(DataElement(_INSTANCE, "UI", sop_uid), ExplicitVRLittleEndian)
        elements = _joined(self._meta | {_INSTANCE: instance})
        return _group_length(len(elements)) + elements


@cache
def _group_length(length: int) -> bytes:
    return _element(DataElement(_GROUP_LENGTH, "UL", length), ExplicitVRLittleEndian)


def _encoded(data: Dataset, syntax: UID) -> dict[int, bytes]:
    """Each element of a data set by its tag."""
    return {element.tag: _element(element, syntax) for element in data}


def _element(element: DataElement, syntax: UID) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    write_data_element(buffer, element, "ISO_IR 100")
    return buffer.getvalue()


def _joined(elements: dict[int, bytes]) -> bytes:
    """The elements in the order of a data set."""
    return b"".join(elements[tag] for tag in sorted(elements))
