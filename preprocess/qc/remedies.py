"""One-line remedies for the reasons of rejected series, for the QC report."""

from preprocess.reasons import Reason

_OTHER_OBJECT = "none: not a head scan in HU"
_RECIPE = "to accept such series, change `select.{}`"
_TEXTS = "inspect the texts with `fmct select --identified`; change `select.{}` or extend `select.terms`"
_EXPORT = "export the series again from the PACS; the scanner's data were lost or changed"
_ATTRIBUTES = "the detail gives the attribute and its value; export again without changes to headers"
_TABLE = "correct the table row given in the detail, and import again"
_PIXELS = "inspect its image below; export again if it is damaged"
_MARK = "inspect its image below; to keep such volumes with a flag, remove the check from `check.reject`"
_LIMIT = "inspect its image below; `check.{}` is the limit"

REMEDIES: dict[str, str] = {
    **dict.fromkeys((Reason.MISSING_FILE, Reason.PATH_OUTSIDE, Reason.INVALID_VALUE), _TABLE),
    **dict.fromkeys((Reason.MISSING_PATIENT, Reason.MISSING_STUDY, Reason.DUPLICATE_ROW), _TABLE),
    Reason.UNSUPPORTED_FORMAT: "convert it to NIfTI, NRRD, MetaImage or .npy",
    Reason.UNREADABLE_FILE: "get read permission, or repair the disk, and rerun",
    **dict.fromkeys((Reason.EMPTY_FILE, Reason.BROKEN_HEADER), _EXPORT),
    **dict.fromkeys((Reason.DAMAGED_ARCHIVE, Reason.ARCHIVE_BOMB), "copy the archive again, or unpack it"),
    Reason.OVERLAPPING_SLICE: "none: another series or pass covers the same region",
    **dict.fromkeys((Reason.NOT_CT, Reason.LOCALIZER, Reason.DOSE_REPORT, Reason.DYNAMIC), _OTHER_OBJECT),
    **dict.fromkeys((Reason.SECONDARY_CAPTURE, Reason.PHANTOM, Reason.NOT_GRAYSCALE), _OTHER_OBJECT),
    Reason.DERIVED: "export the original series if it is missing; else none (`select.allow_derived`)",
    Reason.REFORMAT: "none: an axial series of the study shows the same anatomy",
    Reason.SPECTRAL: "export the 120 kV equivalent images too; `select.kev_range` limits monoenergetic ones",
    Reason.IMAGE_TYPE: _RECIPE.format("image_type"),
    Reason.NOT_AXIAL: _RECIPE.format("max_obliquity_deg"),
    Reason.BODY_PART: _TEXTS.format("body_part"),
    Reason.STUDY_DESCRIPTION: _TEXTS.format("study_description"),
    Reason.SERIES_DESCRIPTION: _TEXTS.format("series_description"),
    Reason.PROTOCOL: _TEXTS.format("protocol"),
    Reason.CONTRAST: _TEXTS.format("contrast"),
    Reason.NO_CONTRAST: _TEXTS.format("contrast"),
    Reason.UNKNOWN_CONTRAST: _TEXTS.format("unknown_contrast"),
    **dict.fromkeys((Reason.BONE_KERNEL, Reason.SOFT_KERNEL), _RECIPE.format("kernels")),
    Reason.UNKNOWN_KERNEL: _TEXTS.format("kernels"),
    Reason.KVP_OUT_OF_RANGE: _RECIPE.format("kvp_range"),
    Reason.NOT_IN_TABLE: _RECIPE.format("table"),
    Reason.THICKNESS_OUT_OF_RANGE: _RECIPE.format("thickness_range_mm"),
    Reason.SEVERAL_PATIENTS: "merge the two Patient IDs in the PACS and export again",
    Reason.SEVERAL_STUDIES: "give all images of the series one Study Instance UID and export again",
    Reason.NOT_BEST_OF_STUDY: "none: another series is the study's volume (`select.keep`, `select.prefer`)",
    **dict.fromkeys((Reason.MISSING_GEOMETRY, Reason.INVALID_GEOMETRY), _ATTRIBUTES),
    Reason.INCONSISTENT_GEOMETRY: _ATTRIBUTES,
    Reason.TOO_FEW_SLICES: "if slices were lost, export again; else " + _RECIPE.format("min_slices"),
    Reason.TOO_MANY_SLICES: _RECIPE.format("max_slices"),
    Reason.COVERAGE_TOO_SMALL: "if slices were lost, export again; else " + _RECIPE.format("min_coverage_mm"),
    Reason.COVERAGE_TOO_LARGE: _RECIPE.format("max_coverage_mm"),
    Reason.MISSING_SLICES: "if slices were lost, export again; else " + _RECIPE.format("max_slice_gap_mm"),
    Reason.SLICE_GAP: "if slices were lost, export again; else " + _RECIPE.format("max_slice_gap_mm"),
    Reason.REPEATED_POSITIONS: "the series has several times or phases: export them as separate series",
    **dict.fromkeys((Reason.TRUNCATED_PIXEL_DATA, Reason.UNDECODABLE_PIXEL_DATA), _EXPORT),
    Reason.BURNED_IN_TEXT: "none: its pixels may show a name (Burned In Annotation)",
    Reason.NOT_HOUNSFIELD: _ATTRIBUTES,
    Reason.NO_HEAD_FOUND: "inspect the series with `fmct trace`: it contains no object as large as a head",
    Reason.DEFACE_FAILED: "inspect the series with `fmct trace`: the face could not be located",
    Reason.HU_OUT_OF_RANGE: _LIMIT.format("hu_error"),
    Reason.AFFINE_MISMATCH: _PIXELS,
    Reason.HEAD_TOO_SHORT: _LIMIT.format("min_head_height_mm"),
    Reason.NOT_A_HEAD: _MARK,
    Reason.VESSELS_ENHANCED: _MARK,
    Reason.VERTEX_MISSING: _LIMIT.format("max_vertex_share"),
    Reason.HEAD_CUT_BY_FIELD: _LIMIT.format("max_edge_share"),
    Reason.TABLE_IN_VOLUME: _LIMIT.format("max_table_share"),
    Reason.MOSTLY_AIR: _LIMIT.format("max_air_share"),
    Reason.AIR_OUT_OF_RANGE: _LIMIT.format("air_hu"),
    Reason.BRAIN_OUT_OF_RANGE: _LIMIT.format("brain_hu"),
    Reason.BONE_OUT_OF_RANGE: _LIMIT.format("bone_hu"),
    Reason.NOISY: _LIMIT.format("max_noise_hu"),
    Reason.MOTION: _LIMIT.format("max_jump_mm"),
    Reason.INTENSITY_STEP: _LIMIT.format("max_jump_hu"),
    Reason.INTERNAL_ERROR: "a bug in fmct or in a codec: please report it, with the detail",
}
"""Remedies for all reasons in the quarantine."""
