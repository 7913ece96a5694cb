"""Positions rounded to whole millimetres: equal steps are restored, and other positions are unchanged."""

from pathlib import Path

import numpy as np
import pytest
from dicom_files import Acquisition, axial, ct_image, save, scanned, voxel_points, waves

from preprocess.config import GridConfig
from preprocess.dicom.geometry import stack
from preprocess.select.rules import SelectConfig
from preprocess.volume.build import Volume, build_volume


def built(slices: Acquisition, written: np.ndarray, folder: Path) -> Volume:
    """The volume of slices sampled at their true positions, with the `written` ones in their headers."""
    for k, position in enumerate(slices.positions):
        stored = np.rint(waves(slices.points(position))).astype(np.int16)
        save(ct_image(stored, **slices.attributes(written[k])), folder / str(k))
    (series,) = scanned(folder)
    return build_volume(series, GridConfig(spacing_mm=(2, 3, 3)), SelectConfig())


@pytest.mark.parametrize("gap", [2.5, 4.3])
def test_rounded_positions_become_equidistant_again(gap: float, tmp_path: Path) -> None:
    """Within a tenth of a millimetre, except for the offset common to all that rounding leaves."""
    slices = axial(slices=60, gap=gap, start=(-70, -60, 10.2))
    rounded = np.floor(slices.positions + 0.5)
    assert np.ptp(np.diff(rounded[:, 2])) == 1
    volume = built(slices, rounded, tmp_path / "e")
    assert volume.facts.slice_gap_mm == pytest.approx((gap, gap), abs=0.02)
    points = voxel_points(volume)
    inner = (points[..., 2] > 20) & (points[..., 2] < 10 + 58 * gap) & (np.abs(points[..., :2]) < 50).all(-1)
    points[..., 2] += np.mean(slices.positions[:, 2] - rounded[:, 2])
    assert np.abs(volume.voxels - waves(points))[inner].max() < 6.5  # what lies between slices, and 0.1 mm


@pytest.mark.parametrize(
    "heights",
    [
        np.cumsum([5] * 20 + [10] * 10),  # slabs
        np.cumsum([2, 3] * 8 + [5] + [2, 3] * 8),  # and a missing slice
        np.cumsum([2, 3] * 10) + 0.25,  # not whole
        np.cumsum([2, 3] * 3),  # few
        np.arange(30) * 5,
    ],
)
def test_other_positions_stay_unchanged(heights: np.ndarray, tmp_path: Path) -> None:
    slices = Acquisition(np.stack([np.full(len(heights), -70.0), np.full(len(heights), -60.0), heights], 1))
    for k, position in enumerate(slices.positions):
        save(ct_image(np.zeros((4, 4), np.int16), **slices.attributes(position)), tmp_path / "e" / str(k))
    (series,) = scanned(tmp_path / "e")
    instances = sorted(series.instances, key=lambda one: one.position[2] if one.position else np.nan)
    assert np.array_equal(stack(instances).positions, slices.positions)
