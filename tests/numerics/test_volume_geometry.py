"""Volumes against the function that their slices sample, and against SimpleITK and SciPy."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_files import Acquisition, Function, axial, ramp, scanned, voxel_points, waves
from scipy.ndimage import convolve1d, map_coordinates
from scipy.spatial.transform import Rotation

from preprocess.config import GridConfig
from preprocess.dicom.decode import AIR_HU
from preprocess.select.rules import SelectConfig
from preprocess.volume import resample
from preprocess.volume.build import build_volume

ANY_PLANE = SelectConfig(max_obliquity_deg=90)
PLANES = {
    "axial": np.array([[1.0, 0, 0], [0, 1, 0]]),
    "coronal": np.array([[1.0, 0, 0], [0, 0, -1]]),
    "sagittal": np.array([[0.0, 1, 0], [0, 0, -1]]),
}


def inside(acquisition: Acquisition, points: np.ndarray, margin: float) -> np.ndarray:
    """Points between the first and last slice whose feet on both neighbours lie `margin` pixels inside."""
    normal = np.cross(acquisition.column_step, acquisition.row_step)
    order = np.argsort(acquisition.positions @ normal)
    positions = acquisition.positions[order]
    heights, t = positions @ normal, points @ normal
    lower = np.clip(np.searchsorted(heights, t, "right") - 1, 0, len(heights) - 2)
    result = (t > heights[0]) & (t < heights[-1])
    for k in (lower, lower + 1):
        offset = points - positions[k]
        for step, spacing, count in zip(
            (acquisition.row_step, acquisition.column_step),
            acquisition.spacing,
            acquisition.matrix,
            strict=True,
        ):
            index = offset @ step / spacing
            result &= (index > margin) & (index < count - 1 - margin)
    return result


def acquisition(seed: int) -> Acquisition:
    """A random acquisition: plane, mirrored storage, direction, turn, tilt, gaps and centres."""
    rng = np.random.default_rng(seed)
    column_step, row_step = PLANES[rng.choice(sorted(PLANES))]
    # Feet first, prone and mirrored storage are signs of the two in-plane directions.
    column_step, row_step = column_step * rng.choice([1, -1]), row_step * rng.choice([1, -1])
    travel = np.cross(column_step, row_step) * rng.choice([1, -1])
    turn = Rotation.from_rotvec(travel * np.radians(rng.choice([0, 0, -12, 31])))
    column_step, row_step = turn.apply(column_step), turn.apply(row_step)
    tilt = Rotation.from_rotvec(column_step * np.radians(rng.choice([0, 18.5, -16.5, 27])))
    row_step = tilt.apply(row_step)
    gaps = [[5.0] * 19, [2.5] * 12 + [1.1] + [7.5] * 9, [3.0, 4.5, 2.2, 6.1] * 6][rng.integers(3)]
    positions = rng.uniform(-90, 40, 3) + np.concatenate([[0], np.cumsum(gaps)])[:, None] * travel
    # The second half may be reconstructed about another centre.
    positions[len(positions) // 2 :] += column_step * rng.choice([0, 6.3])
    return Acquisition(positions, column_step, row_step, spacing=(2.3, 3.1), matrix=(56, 44))


@pytest.mark.parametrize("seed", range(18))
@pytest.mark.parametrize(("function", "tolerance"), [(ramp, 1.25), (waves, 4.0)])
def test_any_acquisition_reproduces_the_sampled_function(
    function: Function, tolerance: float, seed: int, tmp_path: Path
) -> None:
    scan = acquisition(seed)
    centre = scan.points(scan.positions[len(scan.positions) // 2]).mean(axis=(0, 1))
    names = [str(n) for n in np.random.default_rng(seed).permutation(len(scan.positions))]
    folder = scan.write(tmp_path / "series", lambda points: function(points - centre), names)
    volume = build_volume(scanned(folder)[0], GridConfig(spacing_mm=(2.5, 2.0, 1.7)), ANY_PLANE)
    points = voxel_points(volume)
    within = inside(scan, points, 0)
    assert within.mean() > 0.2
    assert np.abs(volume.voxels - function(points - centre))[within].max() <= tolerance
    normal = np.cross(scan.column_step, scan.row_step)
    heights, t = np.sort(scan.positions @ normal), points @ normal
    sideways = (t > heights[0]) & (t < heights[-1]) & ~inside(scan, points, -0.6)
    below = t < heights[0] - (heights[1] - heights[0]) / 2 - 1e-6
    above = t > heights[-1] + (heights[-1] - heights[-2]) / 2 + 1e-6
    assert np.all(volume.voxels[sideways | below | above] == AIR_HU)


def test_the_number_of_rows_in_memory_changes_no_voxel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of one slice at a time, of a plane's slices, or of all."""
    usual = resample.slices_of_a_plane
    heights = np.cumsum([3.0, 4.5, 2.2, 6.1] * 6)
    for degrees in (0, 19):
        row_step = Rotation.from_rotvec([np.radians(degrees), 0, 0]).apply([0.0, 1, 0])
        scan = Acquisition(np.array([0.0, 0, 1]) * heights[:, None], row_step=row_step)
        series = scanned(scan.write(tmp_path / str(degrees), waves))[0]
        made = []
        for room in (usual, lambda *_: 1, lambda heights, *_: len(heights)):
            monkeypatch.setattr(resample, "slices_of_a_plane", room)
            made.append(build_volume(series, GridConfig(spacing_mm=(2.0, 2.0, 2.0)), ANY_PLANE).voxels)
        assert np.array_equal(made[0], made[1])
        assert np.array_equal(made[0], made[2])
    assert usual(heights, 0.0, np.ones((24, 3))) == 6
    assert usual(heights, 10.0, np.ones((24, 3))) == 9


def test_untilted_series_agrees_with_simpleitk(tmp_path: Path) -> None:
    scan = axial(slices=20, gap=4.5)
    noise = np.random.default_rng(0).integers(-300, 1500, (20, *scan.matrix)).astype(np.int16)
    pixels = {tuple(position): noise[k] for k, position in enumerate(scan.positions)}
    folder = scan.write(tmp_path / "series", lambda points: pixels[tuple(points[0, 0])])
    volume = build_volume(scanned(folder)[0], GridConfig(spacing_mm=(1.9, 1.3, 1.1)), SelectConfig())
    source = sitk.GetImageFromArray(noise.astype(np.float64))
    source.SetOrigin(scan.positions[0].tolist())
    source.SetSpacing([scan.spacing[1], scan.spacing[0], 4.5])
    grid = sitk.Image([int(n) for n in volume.voxels.shape[::-1]], sitk.sitkFloat64)
    spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
    direction = volume.affine[:3, :3] / spacing
    grid.SetSpacing(spacing[::-1].tolist())
    grid.SetDirection(direction[:, ::-1].ravel().tolist())
    grid.SetOrigin(volume.affine[:3, 3].tolist())
    expected = sitk.GetArrayFromImage(
        sitk.Resample(source, grid, sitk.Transform(), sitk.sitkLinear, float(AIR_HU))
    )
    # Half a unit is the rounding to int16; the field's edges, half a pixel out, must agree too.
    assert np.abs(volume.voxels - expected).max() <= 0.5 + 1e-3
    assert volume.voxels.size > 5e5


def test_finer_pixels_are_averaged_not_aliased(tmp_path: Path) -> None:
    scan = axial(slices=20)
    scan.spacing, scan.matrix = (0.5, 0.5), (256, 256)
    stripes = np.where(np.indices(scan.matrix).sum(axis=0) % 2, 400, -200)
    folder = scan.write(tmp_path / "stripes", lambda points: stripes)
    voxels = build_volume(scanned(folder)[0], GridConfig(), SelectConfig()).voxels
    assert np.abs(voxels[:, 2:-2, 2:-2] - 100.0).max() <= 2

    centre = np.array([0, 0, 60])
    folder = scan.write(tmp_path / "ramp", lambda points: ramp(points - centre))
    volume = build_volume(scanned(folder)[0], GridConfig(), SelectConfig())
    points = voxel_points(volume)
    within = inside(scan, points, 2)
    assert np.abs(volume.voxels - ramp(points - centre))[within].max() <= 1.25


@pytest.mark.parametrize(("plane", "tilt"), [("axial", 21), ("coronal", 0), ("sagittal", -16)])
def test_closer_slices_are_averaged_not_aliased(tilt: float, plane: str, tmp_path: Path) -> None:
    column_step, row_step = PLANES[plane]
    travel = np.cross(column_step, row_step)
    row_step = Rotation.from_rotvec(column_step * np.radians(tilt)).apply(row_step)
    # Two slabs, so that the average includes unevenly spaced slices and slices too far apart.
    gaps = np.concatenate([np.full(60, 0.5), [0.8], np.full(16, 1.3)])
    offsets = np.concatenate([[0], np.cumsum(gaps)])
    scan = Acquisition(np.array([10.0, 20, 30]) + offsets[:, None] * travel, column_step, row_step)
    centre = scan.points(scan.positions[40]).mean(axis=(0, 1))
    grid, select = (
        GridConfig(spacing_mm=(2.0, 2.0, 2.0)),
        ANY_PLANE.model_copy(update={"min_coverage_mm": 40}),
    )
    folder = scan.write(tmp_path / "ramp", lambda points: ramp(points - centre))
    volume = build_volume(scanned(folder)[0], grid, select)
    points = voxel_points(volume)
    within = inside(scan, points, 1)
    assert np.abs(volume.voxels - ramp(points - centre))[within].max() <= 1.25

    levels = iter([400, -200] * len(offsets))
    folder = scan.write(tmp_path / "stripes", lambda points: np.full(scan.matrix, next(levels)))
    striped = build_volume(scanned(folder)[0], grid, select)
    normal = np.cross(column_step, row_step)
    points = voxel_points(striped)
    heights = (points - scan.positions[0]) @ normal
    thin = inside(scan, points, 0) & (heights > 1.5) & (heights < 27)
    assert thin.sum() > 1e4
    # A box of four slices averages them out; tilted slices are closer, and part of a box remains.
    assert np.abs(striped.voxels - 100.0)[thin].max() <= (1 if tilt == 0 else 25)


def test_averages_over_slices_agree_with_scipy(tmp_path: Path) -> None:
    scan = axial(slices=80, gap=0.75)
    noise = np.random.default_rng(0).integers(-300, 1500, (80, *scan.matrix)).astype(np.int16)
    pixels = {tuple(position): noise[k] for k, position in enumerate(scan.positions)}
    folder = scan.write(tmp_path / "series", lambda points: pixels[tuple(points[0, 0])])
    grid = GridConfig(spacing_mm=(2.0, 2.0, 2.0))
    volume = build_volume(scanned(folder)[0], grid, SelectConfig(min_coverage_mm=40))
    # 2 mm are 2 2/3 slices: the middle one and 5/6 of each neighbour.
    smooth = convolve1d(noise.astype(float), np.array([5 / 6, 1, 5 / 6]) / (2 + 2 / 3), axis=0)
    index = (voxel_points(volume) - scan.positions[0])[..., ::-1] / [0.75, *scan.spacing]
    inner = np.all((index > 1) & (index < np.array(noise.shape) - 2), axis=-1)
    expected = map_coordinates(smooth, index[inner].T, order=1)
    assert np.abs(volume.voxels[inner] - expected).max() <= 0.5 + 1e-2
    assert inner.sum() > 5e4
