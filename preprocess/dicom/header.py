"""Reading one object's DICOM header into rows of the catalog: one, or one per frame."""

import io
import logging
import os
import warnings
from typing import Any, BinaryIO

import pydicom
from pydicom import config as pydicom_config
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from preprocess.dicom.bounded import MAX_BYTES, BoundedHeader
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
from preprocess.dicom.values import coordinates, integer, meaning, number, tag_and_vr, text, words
from preprocess.dicom.walk import WINDOW, dataset, walked, wanting
from preprocess.reasons import Reason, Rejection

# pydicom's log quotes values and file names; reasons report the same problems.
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
    *("ContrastBolusIngredient", "ContrastBolusRoute", "ContrastBolusVolume"),
    *("ContrastBolusAgentSequence", "AnatomicRegionSequence", SHARED, PER_FRAME),
)
_UIDS = {
    "study_uid": "Study Instance UID (0020,000D)",
    "series_uid": "Series Instance UID (0020,000E)",
    "sop_uid": "SOP Instance UID (0008,0018)",
}
"""Required attributes of all images of the catalog, by column."""
_UNDEFINED_LENGTH = 0xFFFFFFFF
"""Length of an element that ends with a delimiter (PS3.5 section 7.1.1)."""
_STORAGE = "1.2.840.10008.5.1.4.1.1."
"""Prefix of the SOP classes of objects with a series (PS3.4 table B.5-1); hanging protocols have none."""
_TAGS = [tag_and_vr(keyword)[0] for keyword in _KEYWORDS]
_WANTED = wanting(_TAGS)
_PIXELS = [Tag(keyword) for keyword in ("FloatPixelData", "DoubleFloatPixelData", "PixelData")]


def read_header(file: BinaryIO, source: Source) -> list[dict[str, Any]]:
    """The catalog's rows for an opened object; none if it is not a DICOM object.

    A multi-frame CT has one row per frame (`Instance.frame`), with the geometry of its functional groups or
    its Spacing Between Slices; without these, and for other modalities, the object has one row.
    Reads up to the pixel data. DICOM objects are recognised by content, never by name: by the DICM prefix
    (PS3.10 section 7.1), or without it by a data set that starts with group 0002 or 0008 and has its UIDs.
    Raises Rejection for a DICOM object that cannot be used (empty_file, broken_header, missing_uid), and
    OSError if the file cannot be read.
    """
    start = file.read(WINDOW)
    if not start:
        raise Rejection(Reason.EMPTY_FILE, "the file has no bytes")
    prefixed = start[128:132] == b"DICM"
    if not prefixed and start[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
        return []
    try:
        rows = _read(file, start, source.size)
    except (Rejection, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's: pydicom's have no number
            raise
        # Any exception of the parser on a damaged header means a broken file; the scan continues.
        if not prefixed:
            return []
        why = "the file ends within the header" if isinstance(error, EOFError) else type(error).__name__
        raise Rejection(Reason.BROKEN_HEADER, why) from None
    if missing := [label for name, label in _UIDS.items() if not all(row[name] for row in rows[:1])]:
        if not prefixed:
            return []
        detail = f"{' and '.join(missing)} missing or empty: export the images with it"
        raise Rejection(Reason.MISSING_UID, detail)
    place = {name: getattr(source, name) for name in ("size", "mtime_ns", "offset", "archive_size")}
    place |= {"path": os.fsencode(source.path), "member": os.fsencode(source.member)}
    return [row | place for row in rows]


def read_attributes(
    file: BinaryIO, size: int, tags: list[str] | list[BaseTag]
) -> tuple[pydicom.FileDataset, BinaryIO]:
    """An object's attributes with these `tags` before its pixels, from a file of `size` bytes.

    Also returns the file positioned at the pixels: another file if the object is deflated. Raises Rejection
    for more data than any object has before its pixels, and pydicom's exceptions for damaged bytes; a
    MemoryError is a failure of the machine, not of the file.
    """
    bounded: Any = BoundedHeader(file, size)
    try:
        return pydicom.dcmread(bounded, stop_before_pixels=True, force=True, specific_tags=tags), file
    except io.UnsupportedOperation:  # pydicom reads the rest of a file only for a deflated data set
        return _read_deflated(file, size, tags)


def _read_deflated(
    file: BinaryIO, size: int, tags: list[str] | list[BaseTag]
) -> tuple[pydicom.FileDataset, BinaryIO]:
    """As `read_attributes`, for a file positioned at its deflated data set (PS3.5 section A.5)."""
    start = file.tell()
    file.seek(0)
    data = pydicom.dcmread(io.BytesIO(file.read(start)), force=True)
    inflated: Any = io.BufferedReader(Inflated(file, start, size - start))
    wanted: Any = [Tag(tag) for tag in tags]
    bounded: Any = BoundedHeader(inflated, MAX_BYTES)
    data.update(read_dataset(bounded, False, True, stop_when=_is_pixels, specific_tags=wanted))
    return data, inflated


def _is_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag in _PIXELS


def _read(file: BinaryIO, start: bytes, size: int) -> list[dict[str, Any]]:
    with warnings.catch_warnings(), pydicom_config.disable_value_validation():
        warnings.simplefilter("ignore")
        if found := walked(file, start, size, _WANTED):
            data = dataset(found.elements)
            if _ends_before_uids(data):
                raise EOFError
            return _rows(data, found.sop_uid, found.transfer_syntax, size)
        file.seek(0)
        sought: Any = _Sought(file)
        data, _ = read_attributes(sought, size, _TAGS)
        if data.file_meta.get("MediaStorageSOPClassUID") == MEDIA_DIRECTORY:
            return []
        # pydicom accepts a cut header, and everything behind seems to be missing.
        if _ends_before_uids(data) or ("Rows" not in data and _is_cut(data, sought.farthest, size)):
            raise EOFError
        return _rows(data, text(data.file_meta, "MediaStorageSOPInstanceUID"), transfer_syntax(data), size)


class _Sought:
    """A file that knows how far it was sought: a zip's member has no position beyond its end."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.tell, self._seek = file.read, file.tell, file.seek
        self.farthest = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As a file's."""
        if whence == io.SEEK_SET:
            self.farthest = max(self.farthest, offset)
        return self._seek(offset, whence)


def _ends_before_uids(data: pydicom.Dataset) -> bool:
    """Whether the header of an object that belongs to a series ends before the series' UID."""
    of_series = text(data, "SOPClassUID").startswith(_STORAGE) or "SOPClassUID" not in data
    return of_series and max(data.keys(), default=0) < tag_and_vr("SeriesInstanceUID")[0]


def _is_cut(data: pydicom.Dataset, end: int, size: int) -> bool:
    """Whether a header, sought up to `end` in a file of `size` bytes, has an element longer than the rest."""
    last = data.get_item(max(data.keys()))
    cut = isinstance(last, RawDataElement) and len(last.value or b"") < last.length < _UNDEFINED_LENGTH
    return cut or end > size


def _rows(data: pydicom.Dataset, sop_uid: str, syntax: str, size: int) -> list[dict[str, Any]]:
    """sop_uid, syntax: from the file's meta information."""
    row = _row(data, sop_uid, syntax)
    if row["modality"] != "CT":
        return [row]
    if has_functional_groups(data):
        return [_grouped(data, row, frame) for frame in range(frame_count(data, size))]
    step = number(data, "SpacingBetweenSlices")
    if row["frames"] > 1 and step:
        positions = [
            frame_position(row["position"], row["orientation"], step, frame)
            for frame in range(frame_count(data, size))
        ]
        return [row | {"frame": frame, "position": position} for frame, position in enumerate(positions)]
    if row["frames"] > 1:
        row["position"] = None  # it would be of the first frame only
    return [row]


def _grouped(data: pydicom.Dataset, row: dict[str, Any], frame: int) -> dict[str, Any]:
    """The object's `row` with the values of a frame's functional groups."""
    groups = frame_attributes(data, frame)
    values = {
        "image_type": words(groups, "FrameType"),
        "acquisition_number": integer(groups, "FrameAcquisitionNumber"),
        "kernel": text(groups, "ConvolutionKernel"),
        "kvp": number(groups, "KVP"),
        "position": coordinates(groups, "ImagePositionPatient", 3),
        "orientation": coordinates(groups, "ImageOrientationPatient", 6),
        "pixel_spacing": coordinates(groups, "PixelSpacing", 2),
        "thickness": number(groups, "SliceThickness"),
        "tilt": number(groups, "GantryDetectorTilt"),
        "body_part": row["body_part"] or meaning(groups, "AnatomicRegionSequence"),
    }
    if row["frames"] > 1 and values["position"] is None:
        row = row | {"position": None}  # the object's position would apply to all frames
    return (
        row
        | {name: value for name, value in values.items() if value not in (None, "", [""])}
        | {"frame": frame}
    )


def _row(data: pydicom.Dataset, sop_uid: str, syntax: str) -> dict[str, Any]:
    return {
        # The file's meta information (PS3.10 section 7.1) replaces a UID missing in the data set.
        "sop_uid": text(data, "SOPInstanceUID") or sop_uid,
        "sop_class": text(data, "SOPClassUID"),
        "transfer_syntax": syntax,
        "image_type": words(data, "ImageType"),
        "acquisition_number": integer(data, "AcquisitionNumber"),
        "instance_number": integer(data, "InstanceNumber"),
        "kernel": text(data, "ConvolutionKernel"),
        "kvp": number(data, "KVP"),
        "frame": 0,
        "frames": integer(data, "NumberOfFrames") or 1,
        "samples": integer(data, "SamplesPerPixel"),
        "rows": integer(data, "Rows"),
        "columns": integer(data, "Columns"),
        "position": coordinates(data, "ImagePositionPatient", 3),
        "orientation": coordinates(data, "ImageOrientationPatient", 6),
        "pixel_spacing": coordinates(data, "PixelSpacing", 2),
        "thickness": number(data, "SliceThickness"),
        "tilt": number(data, "GantryDetectorTilt"),
        "patient_id": text(data, "PatientID"),
        "study_uid": text(data, "StudyInstanceUID"),
        "series_uid": text(data, "SeriesInstanceUID"),
        "frame_of_reference_uid": text(data, "FrameOfReferenceUID"),
        "modality": _modality(data),
        "manufacturer": text(data, "Manufacturer"),
        "model": text(data, "ManufacturerModelName"),
        "study_date": text(data, "StudyDate"),
        "study_description": text(data, "StudyDescription"),
        "series_description": text(data, "SeriesDescription"),
        "protocol": text(data, "ProtocolName"),
        "body_part": text(data, "BodyPartExamined") or meaning(data, "AnatomicRegionSequence"),
        "patient_position": text(data, "PatientPosition"),
        "contrast": text(data, "ContrastBolusAgent") or meaning(data, "ContrastBolusAgentSequence"),
        "contrast_ingredient": text(data, "ContrastBolusIngredient"),
        "contrast_route": text(data, "ContrastBolusRoute"),
        "contrast_volume": number(data, "ContrastBolusVolume"),
    }


def _modality(data: pydicom.Dataset) -> str:
    """Modality (0008,0060); if it was removed, CT by the SOP class."""
    stated = text(data, "Modality").upper()
    return stated or ("CT" if text(data, "SOPClassUID") in CT_CLASSES else "")


def transfer_syntax(data: pydicom.FileDataset) -> str:
    """The transfer syntax UID of a read file; if not stated, the detected encoding."""
    stated = data.file_meta.get("TransferSyntaxUID")
    if stated:
        return str(stated)
    implicit, little = data.original_encoding
    if implicit:
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRLittleEndian if little else ExplicitVRBigEndian)
