import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import Acquisition, axial, ct_image, save, scanned, waves
from pydicom.uid import generate_uid
from synthetic_scan import stack_of

from preprocess.anatomy.head import HEAD
from preprocess.config import GridConfig
from preprocess.dicom.geometry import axes
from preprocess.reasons import IncompleteError, Reason, Rejection
from preprocess.select.outcome import as_rejection
from preprocess.select.rules import SelectConfig
from preprocess.volume.build import Volume, build_volume
from preprocess.volume.crop import find_head

GRID = GridConfig(spacing_mm=(2.0, 2.0, 2.0))


def build(folder: Path, select: SelectConfig | None = None, grid: GridConfig = GRID) -> Volume:
    return build_volume(scanned(folder)[0], grid, select or SelectConfig())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 axial slices 5 mm apart, named 0000 to 0023 from below."""
    return axial().write(tmp_path / "export", waves)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def retake(path: Path, offset: int, acquisition: int) -> None:
    """Store the slice again, brighter, as taken in another acquisition."""
    data = pydicom.dcmread(path)
    data.PixelData = (data.pixel_array + np.int16(offset)).tobytes()
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.AcquisitionNumber = acquisition
    save(data, path.with_name(f"{path.name}-{acquisition}"))


def test_duplicate_files_change_nothing_and_are_counted(folder: Path) -> None:
    plain = build(folder)
    assert plain.dropped == ()
    for index in (3, 9, 10):
        shutil.copy(folder / f"{index:04d}", folder / f"copy{index}")
    copied = build(folder)
    assert copied.dropped == ((Reason.DUPLICATE_SLICE, 3),)
    assert np.array_equal(plain.voxels, copied.voxels)
    assert np.array_equal(plain.affine, copied.affine)
    assert plain.source_digest == copied.source_digest


def test_copies_with_another_rescale_or_padding_are_duplicates(folder: Path) -> None:
    """Two archives store one scan as signed HU, and as unsigned numbers with an intercept."""
    plain = build(folder)
    for path in sorted(folder.iterdir()):
        data = pydicom.dcmread(path)
        data.PixelData = (data.pixel_array + np.int16(1024)).astype("<u2").tobytes()
        data.PixelRepresentation, data.RescaleIntercept = 0, -1024
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        save(data, folder / f"again-{path.name}")
    both = build(folder)
    assert both.dropped == ((Reason.DUPLICATE_SLICE, 24),)
    assert np.array_equal(plain.voxels, both.voxels)
    for path in folder.glob("again-*"):  # the same pixels, of which the brightest now are padding
        data = pydicom.dcmread(path)
        data.PixelData = pydicom.dcmread(folder / path.name.removeprefix("again-")).PixelData
        data.PixelRepresentation, data.RescaleIntercept = 1, 0
        data.add_new("PixelPaddingValue", "SS", int(data.pixel_array.max()))
        save(data, path)
    assert build(folder).dropped == ((Reason.DUPLICATE_SLICE, 24),)


@pytest.mark.parametrize(("few", "many"), [(2, 20), (20, 2)])
def test_a_proof_in_one_slice_corrects_the_others(few: int, many: int, tmp_path: Path) -> None:
    """Two dense pixels under a wrong sign are as few as codes, but another slice of the series has more."""
    acquisition, volumes = axial(), []
    for representation in (0, 1):
        for number, position in enumerate(acquisition.positions):
            hu = np.rint(waves(acquisition.points(position))).astype(int)
            dense = {few: 2, many: 12}.get(number, 0)
            hu[24, 10 : 10 + dense] = 1100 + 20 * np.arange(dense)
            stored = (hu + 1024).astype(np.uint16)
            header = {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": -1024}
            data = ct_image(stored, **header, **acquisition.attributes(position))
            data.PixelRepresentation = representation
            save(data, tmp_path / str(representation) / f"{number:04d}")
        volumes.append(build(tmp_path / str(representation)))
    assert volumes[0].source_digest == volumes[1].source_digest
    assert np.array_equal(volumes[0].voxels, volumes[1].voxels)


def test_the_last_of_retaken_slices_is_kept(folder: Path) -> None:
    plain = build(folder)
    retake(folder / "0012", 100, acquisition=2)
    retaken = build(folder)
    assert retaken.dropped == ((Reason.RETAKEN_SLICE, 1),)
    assert (retaken.voxels - plain.voxels).max() >= 75
    assert retaken.source_digest != plain.source_digest
    for index in range(12):
        retake(folder / f"{index:04d}", 100, acquisition=2)
    with pytest.raises(Rejection, match="repeated_positions: 13 of 24 positions"):
        build(folder)


def test_a_slice_of_the_usual_thickness_is_kept_beside_one_of_another(folder: Path) -> None:
    """A second reconstruction of part of a scan in thick slices is no retake of its thin ones."""
    plain = build(folder)
    for index in range(4, 9):
        retake(folder / f"{index:04d}", 500, acquisition=1)
        thick = pydicom.dcmread(folder / f"{index:04d}-1")
        thick.SliceThickness, thick.InstanceNumber = 10, 100 + index
        save(thick, folder / f"{index:04d}-1")
    volume = build(folder)
    assert volume.dropped == ((Reason.RETAKEN_SLICE, 5),)
    assert np.array_equal(volume.voxels, plain.voxels)


@pytest.mark.parametrize("index", [0, 12])
def test_a_slice_beside_the_others_is_left_out(index: int, folder: Path) -> None:
    """The sign of one coordinate was lost; a scan's field moves by less than half of its width."""
    data = pydicom.dcmread(folder / f"{index:04d}")
    data.ImagePositionPatient[0] *= -1
    save(data, folder / f"{index:04d}")
    volume = build(folder)
    missing = ((Reason.MISSING_SLICES, 1),) if index else ()
    assert volume.dropped == ((Reason.INCONSISTENT_GEOMETRY, 1), *missing)
    for other in (5, 8):
        data = pydicom.dcmread(folder / f"{other:04d}")
        data.ImagePositionPatient[0] *= -1
        save(data, folder / f"{other:04d}")
    with pytest.raises(Rejection, match="inconsistent_geometry: 3 of 24 slices"):
        build(folder)


def test_a_truncated_slice_is_left_out_if_the_gap_allows(folder: Path) -> None:
    truncate(folder / "0007")
    volume = build(folder)
    assert volume.dropped == ((Reason.MISSING_SLICES, 1), (Reason.TRUNCATED_PIXEL_DATA, 1))
    assert volume.facts.slices == 23
    assert volume.facts.slice_gap_mm == pytest.approx((5, 10))
    truncate(folder / "0008")
    with pytest.raises(
        Rejection, match=r"truncated_pixel_data: 2 slices \(.*\); without them missing_slices"
    ):
        build(folder)


def forget_intercept(path: Path) -> None:
    data = pydicom.dcmread(path)
    data.RescaleIntercept = 1024
    save(data, path)


def test_a_slice_on_another_scale_is_left_out(folder: Path) -> None:
    plain = build(folder)
    for index in (0, 8):
        forget_intercept(folder / f"{index:04d}")
    volume = build(folder)
    assert volume.dropped == ((Reason.MISSING_SLICES, 1), (Reason.NOT_HOUNSFIELD, 2))
    assert volume.voxels.max() <= plain.voxels.max()
    forget_intercept(folder / "0023")
    with pytest.raises(Rejection, match=r"not_hounsfield: 3 of 24 slices .*10\d\d HU"):
        build(folder)


@pytest.mark.parametrize("change", ["intercept", "blank"])
def test_a_slice_of_air_between_slices_of_the_head_is_left_out(change: str, tmp_path: Path) -> None:
    """An intercept of -1024 too much makes the head air, which most pixels already are; so do lost pixels."""

    def cylinder(points: np.ndarray) -> np.ndarray:
        inside = np.hypot(points[..., 0] - 2, points[..., 1] - 12) < 50
        return np.where(inside & (points[..., 2] < 110), waves(points), -1000)

    folder = axial().write(tmp_path / "export", cylinder)
    plain = build(folder)
    assert plain.dropped == ()
    for index in (8, 15):
        data = pydicom.dcmread(folder / f"{index:04d}")
        if change == "intercept":
            data.RescaleIntercept = -1024
        else:
            data.PixelData = np.full_like(data.pixel_array, -1024).tobytes()
        save(data, folder / f"{index:04d}")
    volume = build(folder)
    assert volume.dropped == ((Reason.MISSING_SLICES, 2), (Reason.NOT_HOUNSFIELD, 2))
    assert volume.voxels.shape == plain.voxels.shape
    assert np.median(np.abs(volume.voxels.astype(int) - plain.voxels)) < 5
    for index in (9, 10):  # a block of them, wider than what may be left out
        data = pydicom.dcmread(folder / f"{index:04d}")
        data.RescaleIntercept = -3000
        save(data, folder / f"{index:04d}")
    with pytest.raises(Rejection, match="not_hounsfield: 4 of 24 slices"):
        build(folder)


def test_facts_describe_the_acquisition(folder: Path) -> None:
    facts = build(folder).facts
    assert facts.manufacturer == "SIEMENS"
    assert (facts.kernel_class, facts.kvp, facts.slice_thickness_mm, facts.slices) == ("soft", 120, 5, 24)
    assert (facts.matrix, facts.pixel_spacing_mm, facts.gantry_tilt_deg) == ((48, 48), (3, 3), 0)


def head_on_table(points: np.ndarray) -> np.ndarray:
    """An ellipsoid of water in a skull on a curved holder, over a table, in air (supine: table at +y)."""
    x, y, z = np.moveaxis(points, -1, 0)
    radius = np.sqrt((x / 70) ** 2 + (y / 90) ** 2 + ((z - 70) / 85) ** 2)
    hu = np.where(radius < 0.9, 35.0, np.where(radius < 1, 900.0, -1000.0))
    cradle = np.hypot(x, y / 1.1)
    hu = np.where((cradle > 94) & (cradle < 98) & (y > 20), -200.0, hu)
    return np.where((y > 115) & (y < 121), 150.0, hu)


def test_the_crop_contains_the_head_but_not_the_table(tmp_path: Path) -> None:
    positions = np.array([-140.0, -140, 0]) + np.arange(30)[:, None] * np.array([0, 0, 5.0])
    scan = Acquisition(positions, spacing=(1.75, 1.75), matrix=(160, 160))
    volume = build(scan.write(tmp_path / "export", head_on_table), grid=GridConfig())
    margin = GridConfig().crop_margin_mm
    low = volume.affine[:3, 3]
    high = volume.affine[:3, :3] @ (np.array(volume.voxels.shape) - 1) + low
    # x and y decrease with their index (right, anterior); the box is exact to a coarse voxel of 4 mm.
    assert low[:2] == pytest.approx([70 + margin, 90 + margin], abs=5)
    assert high[:2] == pytest.approx([-70 - margin, -90 - margin], abs=5)
    assert volume.voxels.max() == pytest.approx(900, abs=1)


def test_a_table_alone_is_not_a_head(tmp_path: Path) -> None:
    def table(points: np.ndarray) -> np.ndarray:
        return np.where(np.abs(points[..., 1] - 30) < 3, 150.0, -1000.0)

    with pytest.raises(Rejection, match="no_head_found"):
        build(axial().write(tmp_path / "export", table))


def test_slices_far_apart_sideways_are_refused_before_allocating_memory() -> None:
    """Their median direction of travel is straight, so that their coverage is that of a head."""
    slices = stack_of(5.0 * np.arange(24))
    positions = slices.positions.copy()
    positions[5, 0] -= 3000
    positions[9, 1] += 3000
    with pytest.raises(Rejection, match=r"invalid_geometry: the slices extend over 3\d\d\d mm"):
        find_head(np.zeros((24, *slices.matrix), np.int16), replace(slices, positions=positions), -500, HEAD)


def test_a_stray_in_another_plane_is_left_out(folder: Path) -> None:
    plain = build(folder)
    scout = ct_image(
        np.zeros((48, 48), np.int16),
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
    )
    save(scout, folder / "scout")
    volume = build(folder)
    assert volume.dropped == ((Reason.LOCALIZER, 1),)
    assert np.array_equal(volume.voxels, plain.voxels)


def test_axes_have_no_negative_zero() -> None:
    seen = []
    for zero in (-0.0, 0.0):
        axes.cache_clear()
        first = repr(axes((1.0, zero, zero, zero, 1.0, zero)).tolist())
        seen += [first, repr(axes((1.0, -zero, -zero, -zero, 1.0, -zero)).tolist())]
    assert len(set(seen)) == 1, "these enter digests"


def test_an_outcome_does_not_keep_the_pixels_of_its_rejection() -> None:
    pixels = []

    def reject() -> None:
        stack = np.zeros((2, 3, 4), np.int16)
        pixels.append(weakref.ref(stack))
        raise IncompleteError(Reason.VERTEX_MISSING, "3 mm")

    try:
        reject()
    except Rejection as error:
        outcome = as_rejection(error)
    assert (type(outcome), outcome.reason, outcome.detail) == (IncompleteError, "vertex_missing", "3 mm")
    assert pixels[0]() is None
