"""Reading one object's DICOM header into rows of the catalog: one, or one for each frame."""

import io
import logging
import math
import os
import warnings
from functools import cache
from typing import Any, BinaryIO

import pydicom
from pydicom import config as pydicom_config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from preprocess.dicom.bounded import MOST_BYTES, BoundedHeader
from preprocess.dicom.frames import (
    PER_FRAME,
    SHARED,
    frame_attributes,
    frame_count,
    frame_position,
    has_functional_groups,
)
from preprocess.dicom.inflate import Inflated
from preprocess.dicom.sources import Source
from preprocess.reasons import Reason, Rejection

# It quotes values and file names, a line a file; what it complains of is told by reasons.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR: an index of files, not an object."""
_CT = "1.2.840.10008.5.1.4.1.1.2"
CT_CLASSES = (_CT, f"{_CT}.1", f"{_CT}.2")
"""SOP classes CT, Enhanced CT and Legacy Converted Enhanced CT Image Storage."""

_KEYWORDS = (
    *("SpecificCharacterSet", "SOPInstanceUID", "SOPClassUID", "ImageType", "AcquisitionNumber"),
    *("InstanceNumber", "ConvolutionKernel", "KVP", "NumberOfFrames", "SamplesPerPixel", "Rows", "Columns"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
    *("GantryDetectorTilt", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("Modality", "Manufacturer", "ManufacturerModelName", "StudyDescription", "SeriesDescription"),
    "StudyDate",
    *("ProtocolName", "BodyPartExamined", "PatientPosition", "ContrastBolusAgent", "SpacingBetweenSlices"),
    *("ContrastBolusAgentSequence", "AnatomicRegionSequence", SHARED, PER_FRAME),
)
_TAGS = [Tag(keyword) for keyword in _KEYWORDS]
_PIXELS = [Tag(keyword) for keyword in ("FloatPixelData", "DoubleFloatPixelData", "PixelData")]
MOST_TEXT = 2**16
"""Bytes of a value that is no sequence: what 16 bits can count (PS3.5 section 7.1.2)."""
_PLAIN_VRS = frozenset({"AE", "AS", "CS", "DS", "IS", "LO", "SH", "UI"})


def read_header(file: BinaryIO, source: Source) -> list[dict[str, Any]]:
    """The catalog's rows of an opened object; none for what is not a DICOM object.

    A multi-frame CT has a row for each frame (`Instance.frame`), with the geometry that its functional
    groups or its Spacing Between Slices give; where they give none, and for other modalities, the object
    has one row.

    Reads up to the pixel data. What an object is follows from its content, never from its name: the
    DICM prefix (PS3.10 section 7.1), or, where it is stored without it, a data set that begins with
    group 0002 or 0008 and identifies itself.

    Raises Rejection for one that claims to be DICOM and cannot be used (empty_file, broken_header,
    missing_uid), and OSError where the file cannot be read.
    """
    start = file.read(132)
    if not start:
        raise Rejection(Reason.EMPTY_FILE, "the file has no bytes")
    prefixed = start[128:] == b"DICM"
    if not prefixed and start[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
        return []
    file.seek(0)
    try:
        rows = _read(file, source.size)
    except (Rejection, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's; pydicom's have no number
            raise
        # Whatever a mutated header makes the parser raise, the file is broken and the scan goes on.
        if not prefixed:
            return []
        raise Rejection(Reason.BROKEN_HEADER, type(error).__name__) from None
    if not all(row[name] for row in rows[:1] for name in ("study_uid", "series_uid", "sop_uid")):
        if not prefixed:
            return []
        raise Rejection(Reason.MISSING_UID, "no Study, Series or SOP Instance UID")
    place = {name: getattr(source, name) for name in ("size", "mtime_ns", "offset", "archive_size")}
    place |= {"path": os.fsencode(source.path), "member": os.fsencode(source.member)}
    return [row | place for row in rows]


def read_attributes(
    file: BinaryIO, size: int, tags: list[str] | list[BaseTag]
) -> tuple[pydicom.FileDataset, BinaryIO]:
    """An object's attributes of these `tags`, of those before its pixels, from a file of `size` bytes.

    Also the file that is left where the pixels begin: another one where the object is deflated. Raises
    Rejection for more than any object has before its pixels, and whatever pydicom does on damaged bytes; a
    MemoryError is the machine's and not the file's.
    """
    bounded: Any = BoundedHeader(file, size)
    try:
        return pydicom.dcmread(bounded, stop_before_pixels=True, force=True, specific_tags=tags), file
    except io.UnsupportedOperation:  # pydicom asks for all that is left of a deflated data set, and no other
        return _read_deflated(file, size, tags)


def _read_deflated(
    file: BinaryIO, size: int, tags: list[str] | list[BaseTag]
) -> tuple[pydicom.FileDataset, BinaryIO]:
    """As `read_attributes`, of a file that stands where its deflated data set begins (PS3.5 section A.5)."""
    start = file.tell()
    file.seek(0)
    data = pydicom.dcmread(io.BytesIO(file.read(start)), force=True)
    inflated: Any = io.BufferedReader(Inflated(file, start, size - start))
    wanted: Any = [Tag(tag) for tag in tags]
    bounded: Any = BoundedHeader(inflated, MOST_BYTES)
    data.update(read_dataset(bounded, False, True, stop_when=_is_pixels, specific_tags=wanted))
    return data, inflated


def _is_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag in _PIXELS


def _read(file: BinaryIO, size: int) -> list[dict[str, Any]]:
    with warnings.catch_warnings(), pydicom_config.disable_value_validation():
        warnings.simplefilter("ignore")
        data, _ = read_attributes(file, size, _TAGS)
        if data.file_meta.get("MediaStorageSOPClassUID") == MEDIA_DIRECTORY:
            return []
        return _rows(data, size)


def _rows(data: pydicom.FileDataset, size: int) -> list[dict[str, Any]]:
    row = _row(data)
    if row["modality"] != "CT":
        return [row]
    if has_functional_groups(data):
        return [_grouped(data, row, frame) for frame in range(frame_count(data, size))]
    step = _number(data, "SpacingBetweenSlices")
    if row["frames"] > 1 and step:
        positions = [
            frame_position(row["position"], row["orientation"], step, frame)
            for frame in range(frame_count(data, size))
        ]
        return [row | {"frame": frame, "position": position} for frame, position in enumerate(positions)]
    if row["frames"] > 1:
        row["position"] = None  # it would be the first frame's alone
    return [row]


def _grouped(data: pydicom.Dataset, row: dict[str, Any], frame: int) -> dict[str, Any]:
    """What the functional groups say of a frame, in place of the whole object's `row`."""
    groups = frame_attributes(data, frame)
    values = {
        "image_type": _words(groups, "FrameType"),
        "acquisition_number": _integer(groups, "FrameAcquisitionNumber"),
        "kernel": _text(groups, "ConvolutionKernel"),
        "kvp": _number(groups, "KVP"),
        "position": _numbers(groups, "ImagePositionPatient", 3),
        "orientation": _numbers(groups, "ImageOrientationPatient", 6),
        "pixel_spacing": _numbers(groups, "PixelSpacing", 2),
        "thickness": _number(groups, "SliceThickness"),
        "tilt": _number(groups, "GantryDetectorTilt"),
        "body_part": row["body_part"] or _meaning(groups, "AnatomicRegionSequence"),
    }
    if row["frames"] > 1 and values["position"] is None:
        row = row | {"position": None}  # the object's own would be one for all frames
    return (
        row
        | {name: value for name, value in values.items() if value not in (None, "", [""])}
        | {"frame": frame}
    )


def _row(data: pydicom.FileDataset) -> dict[str, Any]:
    return {
        # The file's own statement (PS3.10 section 7.1) stands in where the data set lost it.
        "sop_uid": _text(data, "SOPInstanceUID") or _text(data.file_meta, "MediaStorageSOPInstanceUID"),
        "sop_class": _text(data, "SOPClassUID"),
        "transfer_syntax": transfer_syntax(data),
        "image_type": _words(data, "ImageType"),
        "acquisition_number": _integer(data, "AcquisitionNumber"),
        "instance_number": _integer(data, "InstanceNumber"),
        "kernel": _text(data, "ConvolutionKernel"),
        "kvp": _number(data, "KVP"),
        "frame": 0,
        "frames": _integer(data, "NumberOfFrames") or 1,
        "samples": _integer(data, "SamplesPerPixel"),
        "rows": _integer(data, "Rows"),
        "columns": _integer(data, "Columns"),
        "position": _numbers(data, "ImagePositionPatient", 3),
        "orientation": _numbers(data, "ImageOrientationPatient", 6),
        "pixel_spacing": _numbers(data, "PixelSpacing", 2),
        "thickness": _number(data, "SliceThickness"),
        "tilt": _number(data, "GantryDetectorTilt"),
        "patient_id": _text(data, "PatientID"),
        "study_uid": _text(data, "StudyInstanceUID"),
        "series_uid": _text(data, "SeriesInstanceUID"),
        "frame_of_reference_uid": _text(data, "FrameOfReferenceUID"),
        "modality": _modality(data),
        "manufacturer": _text(data, "Manufacturer"),
        "model": _text(data, "ManufacturerModelName"),
        "study_date": _text(data, "StudyDate"),
        "study_description": _text(data, "StudyDescription"),
        "series_description": _text(data, "SeriesDescription"),
        "protocol": _text(data, "ProtocolName"),
        "body_part": _text(data, "BodyPartExamined") or _meaning(data, "AnatomicRegionSequence"),
        "patient_position": _text(data, "PatientPosition"),
        "contrast": _text(data, "ContrastBolusAgent") or _meaning(data, "ContrastBolusAgentSequence"),
    }


def _modality(data: pydicom.FileDataset) -> str:
    """Modality (0008,0060); where it was removed, CT by the SOP class."""
    stated = _text(data, "Modality").upper()
    return stated or ("CT" if _text(data, "SOPClassUID") in CT_CLASSES else "")


def transfer_syntax(data: pydicom.FileDataset) -> str:
    """The transfer syntax UID of a read file; where it is not stated, the encoding that was found."""
    stated = data.file_meta.get("TransferSyntaxUID")
    if stated:
        return str(stated)
    implicit, little = data.original_encoding
    if implicit:
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRLittleEndian if little else ExplicitVRBigEndian)


def _values(data: pydicom.Dataset, keyword: str) -> list[Any]:
    """The attribute's values; none where it is absent, empty or not what its VR says."""
    tag, vr = _tag_and_vr(keyword)
    element = data.get_item(tag)
    if element is None:
        return []
    if isinstance(element, RawDataElement) and vr != "SQ" and len(element.value or b"") > MOST_TEXT:
        return []
    plain = _plain_values(element, vr)
    if plain is not None:
        return plain
    try:
        value = data.get(keyword)
    except MemoryError:
        raise
    except Exception:
        return []
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, pydicom.multival.MultiValue | list | tuple) else [value]


def _plain_values(element: DataElement | RawDataElement, vr: str) -> list[Any] | None:
    """What pydicom makes of nearly all elements, at a tenth of its time; None for the others."""
    if not isinstance(element, RawDataElement) or not element.value:
        return None
    stated, value = element.VR or vr, element.value
    # An escape begins another character set.
    if stated in _PLAIN_VRS and value.isascii() and b"\x1b" not in value:
        return [text.rstrip("\0 ") for text in value.decode("ascii").rstrip("\0 ").split("\\")]
    if stated == "US" and len(value) == 2:
        return [int.from_bytes(value, "little" if element.is_little_endian else "big")]
    return None


@cache
def _tag_and_vr(keyword: str) -> tuple[BaseTag, str]:
    tag = Tag(keyword)
    return tag, dictionary_VR(tag)


def _text(data: pydicom.Dataset, keyword: str) -> str:
    text = "\\".join(str(value) for value in _values(data, keyword))
    # Undecodable bytes of a wrong character set would not fit in UTF-8 columns.
    return text.replace("\0", "").encode(errors="replace").decode().strip()


def _meaning(data: pydicom.Dataset, keyword: str) -> str:
    """Code Meaning (0008,0104) of a code sequence's first item."""
    items = _values(data, keyword)
    return _text(items[0], "CodeMeaning") if items and isinstance(items[0], pydicom.Dataset) else ""


def _words(data: pydicom.Dataset, keyword: str) -> list[str]:
    return [part.strip().upper() for part in _text(data, keyword).split("\\")]


def _numbers(data: pydicom.Dataset, keyword: str, count: int) -> list[float] | None:
    try:
        numbers = [float(value) for value in _values(data, keyword)]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _number(data: pydicom.Dataset, keyword: str) -> float | None:
    numbers = _numbers(data, keyword, 1)
    return numbers[0] if numbers else None


def _integer(data: pydicom.Dataset, keyword: str) -> int | None:
    number = _number(data, keyword)
    return None if number is None or abs(number) >= 2**63 else int(number)
