"""Reading one object's DICOM header into rows of the catalog: one, or one for each frame."""

import io
import logging
import os
import warnings
from typing import Any, BinaryIO

import pydicom
from pydicom import config as pydicom_config
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
from preprocess.dicom.values import coordinates, integer, meaning, number, tag_and_vr, text, words
from preprocess.dicom.walk import WINDOW, walked
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
    *("ContrastBolusIngredient", "ContrastBolusRoute", "ContrastBolusVolume"),
    *("ContrastBolusAgentSequence", "AnatomicRegionSequence", SHARED, PER_FRAME),
)
_UIDS = {
    "study_uid": "Study Instance UID (0020,000D)",
    "series_uid": "Series Instance UID (0020,000E)",
    "sop_uid": "SOP Instance UID (0008,0018)",
}
"""What no image of the catalog lacks, by its column."""
_TAGS = [tag_and_vr(keyword)[0] for keyword in _KEYWORDS]
_WANTED: dict[int, BaseTag] = {int(tag): tag for tag in _TAGS}
_PIXELS = [Tag(keyword) for keyword in ("FloatPixelData", "DoubleFloatPixelData", "PixelData")]


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
        if isinstance(error, OSError) and error.errno is not None:  # the system's; pydicom's have no number
            raise
        # Whatever a mutated header makes the parser raise, the file is broken and the scan goes on.
        if not prefixed:
            return []
        raise Rejection(Reason.BROKEN_HEADER, type(error).__name__) from None
    if missing := [label for name, label in _UIDS.items() if not all(row[name] for row in rows[:1])]:
        if not prefixed:
            return []
        detail = f"{' and '.join(missing)} absent or empty: export the images with it"
        raise Rejection(Reason.MISSING_UID, detail)
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


def _read(file: BinaryIO, start: bytes, size: int) -> list[dict[str, Any]]:
    with warnings.catch_warnings(), pydicom_config.disable_value_validation():
        warnings.simplefilter("ignore")
        if found := walked(file, start, size, _WANTED):
            return _rows(*found, size)
        file.seek(0)
        data, _ = read_attributes(file, size, _TAGS)
        if data.file_meta.get("MediaStorageSOPClassUID") == MEDIA_DIRECTORY:
            return []
        return _rows(data, text(data.file_meta, "MediaStorageSOPInstanceUID"), transfer_syntax(data), size)


def _rows(data: pydicom.Dataset, sop_uid: str, syntax: str, size: int) -> list[dict[str, Any]]:
    """sop_uid, syntax: what the file's meta information says."""
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
        row["position"] = None  # it would be the first frame's alone
    return [row]


def _grouped(data: pydicom.Dataset, row: dict[str, Any], frame: int) -> dict[str, Any]:
    """What the functional groups say of a frame, in place of the whole object's `row`."""
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
        row = row | {"position": None}  # the object's own would be one for all frames
    return (
        row
        | {name: value for name, value in values.items() if value not in (None, "", [""])}
        | {"frame": frame}
    )


def _row(data: pydicom.Dataset, sop_uid: str, syntax: str) -> dict[str, Any]:
    return {
        # The file's own statement (PS3.10 section 7.1) stands in where the data set lost it.
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
    """Modality (0008,0060); where it was removed, CT by the SOP class."""
    stated = text(data, "Modality").upper()
    return stated or ("CT" if text(data, "SOPClassUID") in CT_CLASSES else "")


def transfer_syntax(data: pydicom.FileDataset) -> str:
    """The transfer syntax UID of a read file; where it is not stated, the encoding that was found."""
    stated = data.file_meta.get("TransferSyntaxUID")
    if stated:
        return str(stated)
    implicit, little = data.original_encoding
    if implicit:
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRLittleEndian if little else ExplicitVRBigEndian)
