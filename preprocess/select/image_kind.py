"""Detection of instances that are not acquired slices of a patient."""

import re
from functools import lru_cache

from preprocess.dicom.catalog import Instance
from preprocess.dicom.header import CT_CLASSES
from preprocess.reasons import Reason
from preprocess.select.lexicon import Lexicon

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""SOP class Secondary Capture Image Storage; its multi-frame kinds append one number."""
DOSE_REPORT = "1.2.840.10008.5.1.4.1.1.88.67"
"""SOP class X-Ray Radiation Dose SR Storage."""

# Image Type (0008,0008) values from the third on, where vendors name the kind of image.
_DOSE_WORDS = ("DOSE", "PATIENT_INFO", "PROT")
_CAPTURE_WORDS = ("SCREEN SAVE", "SCREENSHOT", "CAPTURE")
_LOCALIZER_WORDS = ("LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW")
_DYNAMIC_WORDS = ("PERFUSION", "DYNAMIC", "DYNEV", "MONITORING")
_DERIVED_WORDS = (
    *("MPR", "REFORMAT", "MIP", "MINIP", "PROJECTION IMAGE", "VRT", "VOLUME RENDER", "SSD", "SUBTRACT"),
    *("MOSAIC", "AVERAGE", "COLOR", "RESAMPLED"),
)
_SEPARATORS = re.compile(r"[\[\](),;|/'\"\s]+")
"""What programs write between the values of an Image Type stored as one: "['DERIVED', 'SECONDARY']"."""
_RENDERED = re.compile("(?<![A-Z])(?<!AIDR )3D")
"""Within a word it is a reconstruction: T3D (Siemens), AIDR3D or AIDR 3D (Canon)."""

_PIXEL_CONTRASTS = frozenset(
    (
        *("ADDITION", "DIVISION", "MASKED", "MAXIMUM", "MEAN", "MINIMUM", "MULTIPLICATION", "QUANTITY"),
        *("STD_DEVIATION", "SUBTRACTION"),
    )
)
"""Value 4 of a frame computed from others (PS3.3 C.8.16.1.4, Derived Pixel Contrast): projections, averages,
reformats. NONE, MIXED and FILTERED frames are slices."""

# Value 4 of a multi-energy image (PS3.3 C.8.2.1.1.1) that holds no Hounsfield units of a scan: materials with
# or without one (MAT_REMOVED is a virtual non-contrast image), effective atomic number, electron density.
_SPECTRAL_WORDS = ("MAT_", "EFF_ATOMIC_NUM", "ELECTRON_DENSITY", "MATERIAL DENS", "MATERIAL_DENS", "ATOMIC")
_SPECTRAL_NAMES = re.compile(
    r"(?<![A-Z])(?:VNC\w*|VUE|IODINE\w*|Z_?EFF|EFF_?Z|RHO(?:_?Z)?|BRAINHEM\w*|PBV|HAP|GSI[ _]?MD"
    r"|MD[ _](?:IODINE|WATER))(?![A-Z])"
)
"""Vendors' words in other values of the same images, as whole words."""
_MONOENERGETIC = re.compile(r"(?<![A-Z])(VMI|MONO(E|[ _]?PLUS|\+|ENERG\w*|CHROMATIC)?)(?![A-Z])")
"""Value 4 of a virtual monoenergetic image, or a vendor's name of one."""
_ENERGY = re.compile(r"(\d{2,3})\s*(?:kev|кэв)|mono[a-z]*[\s+_-]*(\d{2,3})(?![\d.])", re.IGNORECASE)

_MATERIAL = "water|h2o|iodine|i|calcium|ca|hap|fat|blood|uric acid|碘|水|钙"
_BASIS_PAIR = re.compile(rf"(?<!\w)({_MATERIAL})\s*\(\s*({_MATERIAL})\s*\)", re.IGNORECASE)
"""Material density images in a two-material decomposition, as named by GE: "Iodine(Water)", "I(H2O)"."""

_DESCRIBED = (Reason.DOSE_REPORT, Reason.LOCALIZER, Reason.DYNAMIC, Reason.SPECTRAL, Reason.DERIVED)
"""Kinds that a series description may name, in order of precedence."""


def kind(instance: Instance) -> Reason | None:
    """Why an instance is no acquired slice, by SOP class and Image Type (PS3.3 C.7.6.1.1.2, C.8.2.1.1.1)."""
    return _kind(_separate(instance.image_type), instance.sop_class, instance.samples)


@lru_cache(maxsize=4096)  # an archive has few different values
def _separate(values: tuple[str, ...]) -> tuple[str, ...]:
    """The values of an Image Type."""
    if len(values) != 1:
        return values
    return tuple(filter(None, _SEPARATORS.split(values[0])))


@lru_cache(maxsize=4096)
def _kind(values: tuple[str, ...], sop_class: str, samples: int | None) -> Reason | None:
    extra = " ".join(values[2:])
    if sop_class == DOSE_REPORT or _any(_DOSE_WORDS, extra):
        return Reason.DOSE_REPORT
    if sop_class.startswith(SECONDARY_CAPTURE) or _any(_CAPTURE_WORDS, extra):
        return Reason.SECONDARY_CAPTURE
    if sop_class and sop_class not in CT_CLASSES:
        return Reason.NOT_CT  # raw data, segmentations, reports, images of other modalities
    if samples not in (None, 1):
        return Reason.NOT_GRAYSCALE
    if _any(_LOCALIZER_WORDS, extra):
        return Reason.LOCALIZER
    if _any(_SPECTRAL_WORDS, extra) or _SPECTRAL_NAMES.search(extra):
        return Reason.SPECTRAL
    if _any(_DYNAMIC_WORDS, extra):
        return Reason.DYNAMIC
    # DERIVED\PRIMARY alone is an axial image after filtering or lossy compression.
    if values[:2] == ("DERIVED", "SECONDARY") or _any(_DERIVED_WORDS, extra):
        return Reason.DERIVED
    if _RENDERED.search(extra) or _PIXEL_CONTRASTS.intersection(values[3:4]):
        return Reason.DERIVED
    return None


def described_kind(series_description: str, lexicon: Lexicon) -> Reason | None:
    """The kind named by a series description (0008,103E), if any.

    For vendors and archives whose Image Type is always AXIAL. "Dose" alone has no meaning, because heads are
    scanned at low dose.
    """
    named = lexicon.meanings(series_description, "image")
    if _BASIS_PAIR.search(series_description):
        named |= {Reason.SPECTRAL}
    return next((reason for reason in _DESCRIBED if reason in named), None)


def is_monoenergetic(image: Instance, lexicon: Lexicon) -> bool:
    """Whether it was computed for one photon energy, from a scan with several."""
    return _typed_energy(_separate(image.image_type)) or _named_energy(
        image.texts.series_description, lexicon
    )


@lru_cache(maxsize=4096)
def _typed_energy(image_type: tuple[str, ...]) -> bool:
    return bool(_MONOENERGETIC.search(" ".join(image_type[2:])))


@lru_cache(maxsize=4096)
def _named_energy(description: str, lexicon: Lexicon) -> bool:
    return "monoenergetic" in lexicon.meanings(description, "image") or bool(_ENERGY.search(description))


def energy_kev(image: Instance) -> float | None:
    """The photon energy stated by the series description of a monoenergetic image, keV."""
    match = _ENERGY.search(image.texts.series_description)
    return float(match[1] or match[2]) if match else None


def _any(words: tuple[str, ...], text: str) -> bool:
    return any(word in text for word in words)
