"""Reasons why a file, a slice or a series does not become part of a volume."""

from enum import StrEnum
from typing import Literal, Self

Stage = Literal["select", "build"]
"""Whether a series was rejected by its headers, or when its pixels were read."""


class Reason(StrEnum):
    """A code for each reason; tables hold its value."""

    # Files, during the scan.
    UNREADABLE_FILE = "unreadable_file"
    NOT_DICOM = "not_dicom"
    EMPTY_FILE = "empty_file"
    BROKEN_HEADER = "broken_header"
    MISSING_UID = "missing_uid"
    ENCRYPTED_ARCHIVE = "encrypted_archive"
    DAMAGED_ARCHIVE = "damaged_archive"
    NESTED_ARCHIVE = "nested_archive"
    UNSUPPORTED_ARCHIVE = "unsupported_archive"
    ARCHIVE_BOMB = "archive_bomb"

    # Rows of a table of volumes (preprocess.imports).
    MISSING_FILE = "missing_file"
    UNSUPPORTED_FORMAT = "unsupported_format"
    PATH_OUTSIDE = "path_outside"
    MISSING_PATIENT = "missing_patient"
    MISSING_STUDY = "missing_study"
    INVALID_VALUE = "invalid_value"
    DUPLICATE_ROW = "duplicate_row"

    # Rows of a table of masks (preprocess.masks).
    UNKNOWN_VOLUME = "unknown_volume"
    AMBIGUOUS_VOLUME = "ambiguous_volume"  # the study has several volumes and the row names none
    ANOTHER_STUDY = "another_study"  # a row, or its segmentation object, names two studies
    ANOTHER_PATIENT = "another_patient"  # the row's patient differs from its volume's
    UNLISTED_CLASS = "unlisted_class"
    EMPTY_MASK = "empty_mask"
    OUTSIDE_VOLUME = "outside_volume"
    PARTNER_REFUSED = "partner_refused"  # another mask of the same volume is rejected

    # Series, by their kind.
    NOT_CT = "not_ct"
    LOCALIZER = "localizer"
    DOSE_REPORT = "dose_report"
    SECONDARY_CAPTURE = "secondary_capture"
    DYNAMIC = "dynamic"  # perfusion and bolus tracking: images over time
    DERIVED = "derived"
    SPECTRAL = "spectral"  # computed from several energies; values differ from a scan at one tube voltage
    PHANTOM = "phantom"
    REFORMAT = "reformat"  # another plane of the anatomy in an axial series of the study
    IMAGE_TYPE = "image_type"
    NOT_AXIAL = "not_axial"

    # Series, by their text attributes.
    BODY_PART = "body_part"
    STUDY_DESCRIPTION = "study_description"
    SERIES_DESCRIPTION = "series_description"
    PROTOCOL = "protocol"
    CONTRAST = "contrast"
    NO_CONTRAST = "no_contrast"
    UNKNOWN_CONTRAST = "unknown_contrast"

    # Series, by how they were acquired.
    BONE_KERNEL = "bone_kernel"
    SOFT_KERNEL = "soft_kernel"
    UNKNOWN_KERNEL = "unknown_kernel"
    KVP_OUT_OF_RANGE = "kvp_out_of_range"
    NOT_IN_TABLE = "not_in_table"
    THICKNESS_OUT_OF_RANGE = "thickness_out_of_range"

    # Series, by the rest of their study.
    SEVERAL_PATIENTS = "several_patients"  # other images of the series have another Patient ID
    SEVERAL_STUDIES = "several_studies"  # other images of the series have another Study Instance UID
    NOT_BEST_OF_STUDY = "not_best_of_study"

    # Slices and their geometry.
    MISSING_GEOMETRY = "missing_geometry"
    INVALID_GEOMETRY = "invalid_geometry"
    INCONSISTENT_GEOMETRY = "inconsistent_geometry"
    TOO_FEW_SLICES = "too_few_slices"
    TOO_MANY_SLICES = "too_many_slices"
    COVERAGE_TOO_SMALL = "coverage_too_small"
    COVERAGE_TOO_LARGE = "coverage_too_large"
    MISSING_SLICES = "missing_slices"
    SLICE_GAP = "slice_gap"
    DUPLICATE_SLICE = "duplicate_slice"
    RETAKEN_SLICE = "retaken_slice"
    OVERLAPPING_SLICE = "overlapping_slice"  # of a joined series or pass, where another covers it
    REPEATED_POSITIONS = "repeated_positions"

    # Pixels.
    TRUNCATED_PIXEL_DATA = "truncated_pixel_data"
    UNDECODABLE_PIXEL_DATA = "undecodable_pixel_data"
    NOT_GRAYSCALE = "not_grayscale"
    BURNED_IN_TEXT = "burned_in_text"
    NOT_HOUNSFIELD = "not_hounsfield"
    NO_HEAD_FOUND = "no_head_found"
    DEFACE_FAILED = "deface_failed"

    # Volumes, by their measures (preprocess.qc.check).
    HU_OUT_OF_RANGE = "hu_out_of_range"
    AFFINE_MISMATCH = "affine_mismatch"
    HEAD_TOO_SHORT = "head_too_short"
    VERTEX_MISSING = "vertex_missing"
    HEAD_CUT_BY_FIELD = "head_cut_by_field"
    TABLE_IN_VOLUME = "table_in_volume"
    MOSTLY_AIR = "mostly_air"
    AIR_OUT_OF_RANGE = "air_out_of_range"
    BRAIN_OUT_OF_RANGE = "brain_out_of_range"
    BONE_OUT_OF_RANGE = "bone_out_of_range"
    NOISY = "noisy"
    MOTION = "motion"
    INTENSITY_STEP = "intensity_step"

    # Volumes, by comparison with other volumes (preprocess.tasks.collect).
    SAME_SCAN = "same_scan"  # another patient's volume comes from the same scan

    # By the voxels, regardless of the header (preprocess.anatomy); also rejects new scans for an encoder.
    NOT_A_HEAD = "not_a_head"

    # By the voxels, if the header does not state it (preprocess.anatomy.vessels).
    VESSELS_ENHANCED = "vessels_enhanced"

    # A defect of this package or of a codec, not of the series.
    INTERNAL_ERROR = "internal_error"


class Rejection(Exception):  # noqa: N818 - an outcome, not a defect
    """A series (or one of its slices) is rejected, for a typed reason.

    detail: one line of numbers and attribute names, without identifiers, paths or free text of the source,
    because it is written to the quarantine table.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[Self], tuple[Reason, str]]:
        """Pickle by the two arguments, so that worker processes can raise it."""
        return type(self), (self.reason, self.detail)


class IncompleteError(Rejection):
    """A series gives a volume, but the head in it is incomplete."""
