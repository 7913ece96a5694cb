"""Spectral images and parts of a head, compared with the whole head."""

from typing import Any

import pytest
from header_series import series, stack, with_texts

from preprocess.build.study import expected_outcomes
from preprocess.dicom.catalog import Series
from preprocess.reasons import Rejection
from preprocess.select.rules import SelectConfig
from preprocess.select.series import select
from preprocess.select.study import select_study

DERIVED = ("DERIVED", "PRIMARY", "AXIAL")
COMPUTED = (
    *(
        "Virtual Non-Contrast",
        "Head VNC",
        "Virtuell nativ",
        "virtuel sans injection",
        "虚拟平扫",
        "仮想非造影",
    ),
    *("Z Effective", "Iodine map", "GSI Iodine(Water)", "Electron Density", "Virtual Unenhanced"),
)


def one(description: str, uid: str = "2", step: float = 5.0, **images: Any) -> Series:
    slices = stack([step * k for k in range(int(150 / step))], **images)
    return series(tuple(with_texts(slices, series_description=description)), series_uid=uid)


def why(image: Series, **config: Any) -> str | None:
    try:
        select(image, SelectConfig(**config))
    except Rejection as rejection:
        return str(rejection.reason)
    return None


def volume_of(*study: Series, **config: Any) -> list[str]:
    """Series UIDs of a study's volumes."""
    rules = SelectConfig(**config)
    outcomes = expected_outcomes(select_study(study, rules), rules.keep)
    return [outcome.series.series_uid for outcome in outcomes if outcome.candidate]


@pytest.mark.parametrize(
    "word",
    [
        *(
            "MAT_REMOVED",
            "MAT_SPECIFIC",
            "EFF_ATOMIC_NUM",
            "ELECTRON_DENSITY",
            "VNC",
            "VUE",
            "IODINE",
            "ZEFF",
        ),
        *("RHO_Z", "GSI MD WATER", "DE_VNC", "BRAINHEM", "PBV"),
    ],
)
def test_image_type_identifies_images_that_are_not_scans(word: str) -> None:
    assert why(one("Head 5.0", image_type=(*DERIVED, word))) == "spectral"
    assert why(one("Head 5.0", image_type=(*DERIVED, word)), contrast="any", allow_derived=True) == "spectral"


@pytest.mark.parametrize("contrast", ["MAXIMUM", "MINIMUM", "MEAN", "STD_DEVIATION", "RESAMPLED", "DIVISION"])
def test_frames_computed_from_others_are_derived(contrast: str) -> None:
    """The pixel contrast of an enhanced CT (PS3.3 C.8.16.1.4): a projection has the geometry of a scan."""
    frames = one("Head 5.0", image_type=("DERIVED", "PRIMARY", "VOLUME", contrast))
    assert why(frames) == "derived"
    assert why(frames, allow_derived=True) is None
    assert why(one("Head 5.0", image_type=("DERIVED", "PRIMARY", "3D"))) == "derived"
    for written in ("['DERIVED', 'SECONDARY', 'MPR']", "DERIVED/SECONDARY/MPR", "DERIVED,PRIMARY,AXIAL,MIP"):
        assert why(one("Head 5.0", image_type=(written,))) == "derived"
    assert why(one("Head 5.0", image_type=("ORIGINAL PRIMARY LOCALIZER",))) == "localizer"
    assert why(one("Head 5.0", image_type=("['ORIGINAL', 'PRIMARY', 'AXIAL', 'CT_SOM5 SPI']",))) is None
    for name in ("T3D", "AIDR3D", "AIDR 3D"):
        assert why(one("Head 5.0", image_type=("DERIVED", "PRIMARY", "AXIAL", name))) is None
    for of_slices in ("NONE", "MIXED", "T3D", "AIDR3D"):
        assert why(one("Head 5.0", image_type=("DERIVED", "PRIMARY", "VOLUME", of_slices))) is None


@pytest.mark.parametrize("description", COMPUTED)
def test_virtual_images_are_rejected_as_spectral(description: str) -> None:
    assert why(one(description)) == "spectral"


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        *[(text, "spectral") for text in ("Head Monoenergetic 40keV", "40 keV", "MonoE 40", "Mono+ 190 keV")],
        *[(text, "spectral") for text in ("MonoE", "Monoenergetic Plus", "单能量")],
        *[(text, None) for text in ("Head 70 keV", "Mono+ 65keV", "MonoE 80", "Monoenergetic 60 keV")],
        *[(text, None) for text in ("Head 120 kV 5.0", "Monosegment 5", "Kevin 40", "Head 5.0 T3D")],
    ],
)
def test_an_energy_far_from_that_of_scans_is_refused(description: str, expected: str | None) -> None:
    assert why(one(description)) == expected


def test_a_monoenergetic_image_without_an_energy_is_refused() -> None:
    assert why(one("Head 5.0", image_type=(*DERIVED, "VMI"))) == "spectral"
    for word in ("MONOE", "CT_SOM7 DE MONOPLUS", "MONO", "MONO_ENERGETIC"):
        assert why(one("Head 5.0", image_type=(*DERIVED, word))) == "spectral", word
    for word in ("CT_SOM5 SPI DUAL", "STANDARD", "MONOSEGMENT", "M_0.5", "SHAPE"):
        assert why(one("Head 5.0", image_type=(*DERIVED, word))) is None, word
    assert why(one("Head 5.0 70keV", image_type=(*DERIVED, "VMI"))) is None
    assert why(one("Head 5.0 40keV"), kev_range=(40, 100)) is None


def test_a_scan_is_preferred_to_a_finer_monoenergetic_image() -> None:
    scan, fine = one("Head 5.0 T3D", "1"), one("Head 70 keV", "2", step=2.5, thickness=2.5)
    assert volume_of(fine, scan) == volume_of(scan, fine) == ["1"]
    assert volume_of(fine) == ["2"]
    assert volume_of(one("Head 40 keV", "2", step=2.5), scan) == ["1"]


def test_the_whole_head_is_preferred_to_a_finer_part() -> None:
    head = one("Head 5.0", "1")
    for text in ("Facial bones 1.0 ST", "NNH 1.0", "Temporal bone", "副鼻腔", "Sinus"):
        part = one(text, "2", step=2.5, thickness=2.5)
        assert volume_of(part, head) == ["1"], text
        assert volume_of(part) == ["2"], text
    both = one("Head and sinuses", "2", step=2.5, thickness=2.5)
    assert volume_of(both, head) == ["2"]
