"""A Series Instance UID for each slice is explained in each rejection."""

from pathlib import Path

import pytest
from dicom_files import axial, ct_image, save, scanned, waves

from preprocess.build.study import expected_outcomes
from preprocess.reasons import Reason
from preprocess.select.outcome import Outcome
from preprocess.select.rules import SelectConfig
from preprocess.select.single_image_series import MIN_IMAGES
from preprocess.select.study import select_study


def outcomes(folder: Path, images: int, at_one_place: bool = False) -> list[Outcome]:
    """Outcomes of a study of single images in separate series, and one series of two."""
    slices = axial(slices=images + 2)
    for k, position in enumerate(slices.positions):
        place = slices.attributes(slices.positions[0] if at_one_place and k < images else position)
        series = f"1.2.3.{min(k, images)}"
        stored = waves(slices.points(position)).astype("int16")
        save(ct_image(stored, SeriesInstanceUID=series, **place), folder / str(k))
    return expected_outcomes(select_study(scanned(folder), SelectConfig()), "best")


def test_images_in_separate_series_are_reported_as_such(tmp_path: Path) -> None:
    results = outcomes(tmp_path / "e", 12)
    assert len(results) == 13
    details = [o.rejection.detail for o in results if o.rejection and len(o.series.instances) == 1]
    assert {o.rejection.reason for o in results if o.rejection} == {Reason.TOO_FEW_SLICES}
    assert len(details) == 12
    assert all("12 series" in detail and "(0020,000E)" in detail for detail in details)
    (pair,) = [o for o in results if len(o.series.instances) == 2]
    assert pair.rejection is not None
    assert "0020,000E" not in pair.rejection.detail


@pytest.mark.parametrize(("images", "at_one_place"), [(MIN_IMAGES - 1, False), (12, True)])
def test_intended_single_images_are_not_reported(images: int, at_one_place: bool, tmp_path: Path) -> None:
    results = outcomes(tmp_path / "e", images, at_one_place)
    assert {o.rejection.reason for o in results if o.rejection} == {Reason.TOO_FEW_SLICES}
    assert len(results) == images + 1
    assert not any("0020,000E" in o.rejection.detail for o in results if o.rejection)
