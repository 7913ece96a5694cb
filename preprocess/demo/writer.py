"""DICOM files of the export: data sets by the modules of PS3.3, encoded in a requested transfer syntax."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MediaStorageDirectoryStorage,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    XRayRadiationDoseSRStorage,
)
from pydicom.valuerep import format_number_as_ds

from preprocess.demo.identity import MARK, Identity
from preprocess.demo.plan import Quirk
from preprocess.demo.scanners import Encoding, Kernel, Scanner
from preprocess.demo.stack import Plane

TRANSFER_SYNTAXES = {
    Quirk.JPEG2000: JPEG2000Lossless,
    Quirk.RLE: RLELossless,
    Quirk.DEFLATED: DeflatedExplicitVRLittleEndian,
    Quirk.IMPLICIT_VR: ImplicitVRLittleEndian,
    Quirk.BIG_ENDIAN: ExplicitVRBigEndian,
}
COMPRESSED: dict[str, str] = {RLELossless: "pydicom", JPEG2000Lossless: "pylibjpeg"}
"""pydicom's encoder of each compressed transfer syntax."""


@dataclass(frozen=True)
class SeriesFacts:
    """Common facts of all files of one series."""

    identity: Identity
    scanner: Scanner
    uid: str
    number: int
    description: str
    patient_position: str
    transfer_syntax: str


def transfer_syntax(quirks: tuple[Quirk, ...]) -> str:
    """The transfer syntax UID for a series' quirks; Explicit VR Little Endian by default."""
    return next((TRANSFER_SYNTAXES[q] for q in quirks if q in TRANSFER_SYNTAXES), ExplicitVRLittleEndian)


def ct_image(
    facts: SeriesFacts,
    plane: Plane,
    encoding: Encoding,
    image_type: tuple[str, ...],
    kernel: Kernel,
    tilt: float,
) -> Dataset:
    """A CT Image (PS3.3 A.3) without what differs between the slices of a series (`slice_elements`).

    plane: of any of the slices; encoding: of the stored values.
    """
    data = _image(facts, CTImageStorage, "CT", image_type)
    _orient(data, facts, plane)
    data.KVP = str(facts.scanner.kvp)
    data.DataCollectionDiameter = "500"
    data.ReconstructionDiameter = _ds(plane.spacing * plane.matrix)
    data.GantryDetectorTilt = _ds(tilt)
    data.XRayTubeCurrent = "250"
    data.ExposureTime = "1000"
    data.FilterType = "HEAD FILTER"
    data.ConvolutionKernel = list(kernel.names)
    _grey(data, plane.matrix, encoding.bits_stored, encoding.signed)
    data.RescaleIntercept = _ds(encoding.intercept)
    data.RescaleSlope = _ds(encoding.slope)
    data.RescaleType = "HU"
    data.WindowCenter, data.WindowWidth = ("500", "2500") if kernel.sharp else ("40", "80")
    if encoding.padding is not None:
        data.add_new("PixelPaddingValue", "SS" if encoding.signed else "US", encoding.padding)
    return data


def mr_image(facts: SeriesFacts, plane: Plane) -> Dataset:
    """An MR Image (PS3.3 A.4) of 12 bits in arbitrary units, in the form of `ct_image`."""
    data = _image(facts, MRImageStorage, "MR", ("ORIGINAL", "PRIMARY", "M", "SE"))
    _orient(data, facts, plane)
    data.ScanningSequence, data.SequenceVariant, data.ScanOptions = "SE", "NONE", ""
    data.MRAcquisitionType, data.RepetitionTime, data.EchoTime = "2D", "500", "12"
    data.MagneticFieldStrength = "1.5"
    _grey(data, plane.matrix, 12, signed=False)
    return data


def slice_elements(sop_uid: str, number: int, plane: Plane, stored: np.ndarray) -> Dataset:
    """The elements that differ between the images of a series; stored: int16 or uint16 (rows, columns)."""
    data = Dataset()
    data.SOPInstanceUID, data.InstanceNumber = sop_uid, number
    data.ImagePositionPatient = [_ds(v) for v in plane.position]
    data.SliceThickness = _ds(plane.thickness)
    data.SliceLocation = _ds(plane.position[2])
    data.PixelData = stored.tobytes()
    data["PixelData"].VR = "OW"
    return data


def screen_capture(facts: SeriesFacts, sop_uid: str, picture: np.ndarray) -> Dataset:
    """A Secondary Capture (PS3.3 A.8) in CT's modality; `picture` is uint8 RGB (rows, columns, 3)."""
    image_type = ("DERIVED", "SECONDARY", "SCREEN SAVE")
    data = _image(facts, SecondaryCaptureImageStorage, "CT", image_type)
    data.SOPInstanceUID, data.InstanceNumber = sop_uid, 1
    data.ConversionType = "WSD"
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.Rows, data.Columns = picture.shape[:2]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.BurnedInAnnotation = "YES"
    data.PixelData = picture.tobytes()
    data["PixelData"].VR = "OB"
    return data


def dose_report(facts: SeriesFacts, sop_uid: str) -> Dataset:
    """The head of an X-Ray Radiation Dose SR (PS3.3 A.35.8), with one text item."""
    data = _common(facts, XRayRadiationDoseSRStorage, "SR")
    data.SOPInstanceUID, data.InstanceNumber = sop_uid, 1
    data.CompletionFlag, data.VerificationFlag = "COMPLETE", "UNVERIFIED"
    data.ValueType, data.ContinuityOfContent = "CONTAINER", "SEPARATE"
    data.ConceptNameCodeSequence = [_code("113701", "DCM", "X-Ray Radiation Dose Report")]
    comment = Dataset()
    comment.RelationshipType, comment.ValueType = "CONTAINS", "TEXT"
    comment.ConceptNameCodeSequence = [_code("121106", "DCM", "Comment")]
    comment.TextValue = f"{MARK} DLP 812 mGy*cm"
    data.ContentSequence = [comment]
    return data


def media_directory(sop_uid: str) -> bytes:
    """A DICOMDIR (PS3.3 F.3) that lists nothing: an index that a scan must not trust."""
    data = Dataset()
    data.FileSetID = MARK
    data.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = 0
    data.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = 0
    data.FileSetConsistencyFlag = 0
    data.DirectoryRecordSequence = []
    return _file(data, MediaStorageDirectoryStorage, sop_uid, ExplicitVRLittleEndian)


def encode(data: Dataset, syntax: str) -> bytes:
    """The file (PS3.10) of `data` in the transfer syntax `syntax`; a pure function of both."""
    encode_pixels(data, syntax)
    return _file(data, data.SOPClassUID, data.SOPInstanceUID, syntax)


def encode_pixels(data: Dataset, syntax: str) -> None:
    """Change the little-endian pixels of `data` to those of a transfer syntax, in place."""
    if syntax == ExplicitVRBigEndian:
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
    if syntax in COMPRESSED:
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.compress(syntax, encoding_plugin=COMPRESSED[syntax], generate_instance_uid=False)


def file_meta(sop_class: str, sop_uid: str, syntax: str) -> FileMetaDataset:
    """The File Meta Information (PS3.10 section 7.1) of an object."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(sop_uid)
    meta.TransferSyntaxUID = UID(syntax)
    return meta


def _file(data: Dataset, sop_class: str, sop_uid: str, syntax: str) -> bytes:
    data.file_meta = file_meta(sop_class, sop_uid, syntax)
    data.preamble = bytes(128)
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def _common(facts: SeriesFacts, sop_class: str, modality: str) -> Dataset:
    """Patient, study, series, equipment and SOP modules, without the instance's UID and number."""
    patient, scanner = facts.identity, facts.scanner
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 100"
    data.SOPClassUID = sop_class
    data.StudyDate = data.SeriesDate = data.ContentDate = patient.study_date
    data.StudyTime = data.SeriesTime = data.ContentTime = patient.study_time
    data.AccessionNumber = patient.accession_number
    data.Modality = modality
    data.Manufacturer, data.ManufacturerModelName = scanner.manufacturer, scanner.model
    data.InstitutionName, data.StationName = f"{MARK} HOSPITAL", f"{MARK}CT"
    data.ReferringPhysicianName = f"{MARK}^DOCTOR"
    data.StudyDescription, data.SeriesDescription = f"CT HEAD {MARK}", facts.description
    data.PatientName, data.PatientID = patient.patient_name, patient.patient_id
    data.PatientBirthDate, data.PatientSex = patient.birth_date, patient.sex
    data.PatientComments = f"{MARK} fell at home"
    data.BodyPartExamined = "HEAD"
    data.ProtocolName = f"{MARK} HEAD ROUTINE"
    data.PatientPosition = facts.patient_position
    data.StudyInstanceUID, data.SeriesInstanceUID = patient.study_uid, facts.uid
    data.StudyID, data.SeriesNumber = "1", facts.number
    return data


def _image(facts: SeriesFacts, sop_class: str, modality: str, image_type: tuple[str, ...]) -> Dataset:
    data = _common(facts, sop_class, modality)
    data.ImageType = list(image_type)
    data.AcquisitionNumber = "1"
    data.AcquisitionDate, data.AcquisitionTime = facts.identity.study_date, facts.identity.study_time
    return data


def _orient(data: Dataset, facts: SeriesFacts, plane: Plane) -> None:
    """The Frame of Reference and Image Plane modules (PS3.3 C.7.4.1, C.7.6.2), without the position."""
    data.FrameOfReferenceUID = facts.identity.frame_of_reference_uid
    data.PositionReferenceIndicator = "OM"
    data.ImageOrientationPatient = [_ds(v) for v in (*plane.row, *plane.column)]
    data.PixelSpacing = [_ds(plane.spacing)] * 2


def _grey(data: Dataset, matrix: int, bits_stored: int, signed: bool) -> None:
    """The Image Pixel module (PS3.3 C.7.6.3) of 16-bit grey values, without them."""
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows = data.Columns = matrix
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, bits_stored, bits_stored - 1
    data.PixelRepresentation = int(signed)


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _ds(value: float) -> str:
    return format_number_as_ds(float(value))
