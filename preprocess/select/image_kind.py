"""What kind of image an instance is, apart from an acquired slice of a patient."""

import re
from functools import lru_cache

from preprocess.dicom.catalog import Instance
from preprocess.dicom.header import CT_CLASSES
from preprocess.reasons import Reason

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""SOP class Secondary Capture Image Storage; its multi-frame kinds append one number."""
DOSE_REPORT = "1.2.840.10008.5.1.4.1.1.88.67"
"""SOP class X-Ray Radiation Dose SR Storage."""

# Image Type (0008,0008) values from the third on, where vendors name what they made.
_DOSE_WORDS = ("DOSE", "PATIENT_INFO", "PROT")
_CAPTURE_WORDS = ("SCREEN SAVE", "SCREENSHOT", "CAPTURE")
_LOCALIZER_WORDS = ("LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW")
_DYNAMIC_WORDS = ("PERFUSION", "DYNAMIC", "DYNEV", "MONITORING")
_DERIVED_WORDS = (
    *("MPR", "REFORMAT", "MIP", "MINIP", "PROJECTION IMAGE", "VRT", "VOLUME RENDER", "SSD", "3D", "SUBTRACT"),
    *("MOSAIC", "AVERAGE", "COLOR"),
)

# Series Description (0008,103E), for the vendors and archives whose Image Type says AXIAL throughout.
# "Dose" alone says nothing: heads are taken at a low one.
_DESCRIBED = (
    (
        Reason.DOSE_REPORT,
        re.compile(
            r"(?<![a-z])dose[\s_-]*((structured )?report|info|information|sheet|summary|record|sr)(?![a-z])"
            r"|^\s*dose\s*$|\bpatient protocol\b",
            re.IGNORECASE,
        ),
    ),
    (Reason.LOCALIZER, re.compile(r"\b(scout|topogram|localizer|surview|scano(gram|graphy))\b", re.I)),
    (
        Reason.DYNAMIC,
        re.compile(
            r"perfusion|\bctp\b|monitoring|\bbolus\b|smart ?prep|sure ?start|\b(tmax|ttp|mtt|r?cb[fv])\b",
            re.IGNORECASE,
        ),
    ),
    (Reason.DERIVED, re.compile(r"\b(min|av)?ip\b|\bmip\b|\bvrt?\b|\bsubtract", re.IGNORECASE)),
)


def kind(instance: Instance) -> Reason | None:
    """Why an instance is no acquired slice, by SOP class and Image Type (PS3.3 C.7.6.1.1.2, C.8.2.1.1.1)."""
    return _kind(instance.image_type, instance.sop_class, instance.samples)


@lru_cache(maxsize=4096)  # images of a series share these, and an archive has few
def _kind(values: tuple[str, ...], sop_class: str, samples: int | None) -> Reason | None:
    extra = " ".join(values[2:])
    if sop_class == DOSE_REPORT or _any(_DOSE_WORDS, extra):
        return Reason.DOSE_REPORT
    if sop_class.startswith(SECONDARY_CAPTURE) or _any(_CAPTURE_WORDS, extra):
        return Reason.SECONDARY_CAPTURE
    if sop_class and sop_class not in CT_CLASSES:
        return Reason.NOT_CT  # raw data, segmentations, reports, another machine's images
    if samples not in (None, 1):
        return Reason.NOT_GRAYSCALE
    if _any(_LOCALIZER_WORDS, extra):
        return Reason.LOCALIZER
    if _any(_DYNAMIC_WORDS, extra):
        return Reason.DYNAMIC
    # DERIVED\PRIMARY alone is an axial image after filtering or lossy compression.
    if values[:2] == ("DERIVED", "SECONDARY") or _any(_DERIVED_WORDS, extra):
        return Reason.DERIVED
    return None


def described_kind(series_description: str) -> Reason | None:
    """The kind that a series description names, if any."""
    found = (reason for reason, pattern in _DESCRIBED if pattern.search(series_description))
    return next(found, None)


def _any(words: tuple[str, ...], text: str) -> bool:
    return any(word in text for word in words)
