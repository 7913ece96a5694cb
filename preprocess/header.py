"""Reading one file's DICOM header into a row of the catalog."""

import math
import os
import warnings
from pathlib import Path
from typing import Any

import pydicom
from pydicom import config as pydicom_config
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from preprocess.reasons import Reason, Rejection

MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR: an index of files, not an object."""

_TAGS = [
    *("SpecificCharacterSet", "SOPInstanceUID", "SOPClassUID", "ImageType", "AcquisitionNumber"),
    *("InstanceNumber", "ConvolutionKernel", "KVP", "NumberOfFrames", "SamplesPerPixel", "Rows", "Columns"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
    *("GantryDetectorTilt", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("Modality", "Manufacturer", "ManufacturerModelName", "StudyDescription", "SeriesDescription"),
    *("ProtocolName", "BodyPartExamined", "PatientPosition", "ContrastBolusAgent"),
]


def read_header(path: Path) -> dict[str, Any] | None:
    """The catalog's row of one file, or None for a file that is not a DICOM object.

    Reads up to the pixel data. What a file is follows from its content, never from its name: the
    DICM prefix (PS3.10 section 7.1), or, for files stored without it, a data set that begins with
    group 0002 or 0008 and identifies itself.

    Raises Rejection for a file that claims to be DICOM and cannot be used: empty_file,
    unreadable_file, broken_header, missing_uid.
    """
    try:
        status = path.stat()
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        raise Rejection(Reason.UNREADABLE_FILE, os.strerror(error.errno or 0)) from None
    if not start:
        raise Rejection(Reason.EMPTY_FILE, "the file has no bytes")
    prefixed = start[128:] == b"DICM"
    if not prefixed and start[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
        return None
    try:
        row = _read(path)
    except OSError as error:
        raise Rejection(Reason.UNREADABLE_FILE, os.strerror(error.errno or 0)) from None
    except Exception as error:
        # Whatever a mutated header makes the parser raise, the file is broken and the scan goes on.
        if not prefixed:
            return None
        raise Rejection(Reason.BROKEN_HEADER, type(error).__name__) from None
    if row is None:
        return None
    if not all(row[name] for name in ("study_uid", "series_uid", "sop_uid")):
        if not prefixed:
            return None
        raise Rejection(Reason.MISSING_UID, "no Study, Series or SOP Instance UID")
    return row | {"path": os.fsencode(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _read(path: Path) -> dict[str, Any] | None:
    with warnings.catch_warnings(), pydicom_config.disable_value_validation():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_TAGS)
        if data.file_meta.get("MediaStorageSOPClassUID") == MEDIA_DIRECTORY:
            return None
        return _row(data)


def _row(data: pydicom.FileDataset) -> dict[str, Any]:
    return {
        "sop_uid": _text(data, "SOPInstanceUID"),
        "sop_class": _text(data, "SOPClassUID"),
        "transfer_syntax": transfer_syntax(data),
        "image_type": [part.strip().upper() for part in _text(data, "ImageType").split("\\")],
        "acquisition_number": _integer(data, "AcquisitionNumber"),
        "instance_number": _integer(data, "InstanceNumber"),
        "kernel": _text(data, "ConvolutionKernel"),
        "kvp": _number(data, "KVP"),
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
        "modality": _text(data, "Modality").upper(),
        "manufacturer": _text(data, "Manufacturer"),
        "model": _text(data, "ManufacturerModelName"),
        "study_description": _text(data, "StudyDescription"),
        "series_description": _text(data, "SeriesDescription"),
        "protocol": _text(data, "ProtocolName"),
        "body_part": _text(data, "BodyPartExamined"),
        "patient_position": _text(data, "PatientPosition"),
        "contrast": _text(data, "ContrastBolusAgent"),
    }


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
    try:
        value = data.get(keyword)
    except Exception:
        return []
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, pydicom.multival.MultiValue | list | tuple) else [value]


def _text(data: pydicom.Dataset, keyword: str) -> str:
    text = "\\".join(str(value) for value in _values(data, keyword))
    # Undecodable bytes of a wrong character set would not fit in UTF-8 columns.
    return text.replace("\0", "").encode(errors="replace").decode().strip()


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
