"""Volumes against dcm2niix: the affine and the voxels of real series and of the generator's."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_files import Function, save, scanned, voxel_points
from pydicom.uid import CTImageStorage
from scipy.ndimage import binary_erosion, map_coordinates
from scipy.optimize import minimize

from preprocess.config import GridConfig
from preprocess.demo.anatomy import head_hu
from preprocess.demo.export import export
from preprocess.demo.plan import VOLUME, Kind, Quirk, plan_studies
from preprocess.dicom.catalog import Instance, Series
from preprocess.dicom.decode import AIR_HU, Decoder
from preprocess.dicom.geometry import stack
from preprocess.select.rules import SelectConfig
from preprocess.select.series import select
from preprocess.volume.build import Volume, build_volume
from preprocess.volume.resample import field, resample


def dcm2niix(folder: Path, out: Path) -> dict[str, nibabel.Nifti1Image]:
    """dcm2niix's images of a series, by the suffix of the name."""
    if not shutil.which("dcm2niix"):
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("dcm2niix is not installed")
    out.mkdir()
    subprocess.run(["dcm2niix", "-f", "x", "-o", out, folder], check=True, capture_output=True)
    return {path.stem[1:]: nibabel.Nifti1Image.from_filename(path) for path in out.glob("*.nii")}


def sampled(image: np.ndarray, to_ras: np.ndarray, points: np.ndarray) -> np.ndarray:
    """An image's values at LPS points, linearly interpolated through its voxel-to-RAS affine."""
    ras = points * [-1, -1, 1]
    index = (ras - to_ras[:3, 3]) @ np.linalg.inv(to_ras[:3, :3]).T
    return map_coordinates(image, np.moveaxis(index, -1, 0), order=1, cval=-1024)


def test_tilted_uneven_head_agrees_with_dcm2niix(tmp_path: Path) -> None:
    folder = Path(__file__).parents[1] / "data" / "ge_head_tilt18"
    series = next(s for s in scanned(folder, tmp_path / "catalog.parquet") if s.modality == "CT")
    volume = build_volume(series, GridConfig(), SelectConfig())
    assert volume.facts.gantry_tilt_deg == pytest.approx(18.5, abs=0.01)
    assert volume.facts.slice_gap_mm == pytest.approx((1.14, 7.38), abs=1e-6)
    assert np.allclose(np.abs(volume.affine[:3, :3].sum(axis=1)), 1)
    # _Tilt_ shears the slices onto a block along the slice normal, _Eq_ gives it even spacing. In this
    # version _Eq_ scales a row instead of a column of the sform; its qform is right.
    image = dcm2niix(folder, tmp_path / "nii")["_Tilt_Eq_1"]
    values = np.asarray(image.dataobj, np.float32)
    expected = sampled(values, image.get_qform(), voxel_points(volume))
    brain = binary_erosion((expected > 0) & (expected < 80), iterations=4)
    assert brain.sum() > 1e6
    ours, theirs = volume.voxels[brain], expected[brain]
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.1)
    # It interpolates three times and we average over a voxel, so noise differs by about 1 HU.
    assert np.abs(ours - theirs).mean() < 1.0
    assert best_shift(volume, partial(sampled, values, image.get_qform())) < 0.1
    assert lacking(series, volume.voxels, voxel_points(volume), values, image.get_qform()) == (0, 0)


def test_tilt_of_the_other_sign_agrees_with_dcm2niix(
    shared_dicom: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shared_dicom("dcm_qa_ct/philips_S21610/S3010")
    series = next(s for s in scanned(folder, tmp_path / "catalog.parquet") if s.modality == "CT")
    volume = build_volume(series, GridConfig(), SelectConfig())
    assert volume.facts.gantry_tilt_deg == pytest.approx(-16.5, abs=0.01)
    images = dcm2niix(folder, tmp_path / "nii")
    tilted, raw = images["_Tilt_1"], images[""]
    # This version moves the origin for the rows that a negative tilt adds below along a row of the sform
    # instead of a column, 80 mm off in z; the untilted image's origin, less those rows, is right.
    to_ras = tilted.affine.copy()
    to_ras[:3, 3] = raw.affine[:3, 3] - (tilted.shape[1] - raw.shape[1]) * to_ras[:3, 1]
    values = np.asarray(tilted.dataobj, np.float32)
    expected = sampled(values, to_ras, voxel_points(volume))
    plastic = binary_erosion(expected > 50, iterations=2)
    assert plastic.sum() > 1e4
    assert volume.voxels[plastic].mean() == pytest.approx(expected[plastic].mean(), abs=2)
    assert best_shift(volume, partial(sampled, values, to_ras)) < 0.25
    assert lacking(series, volume.voxels, voxel_points(volume), values, to_ras) == (0, 0)


def best_shift(volume: Volume, hu: Function) -> float:
    """mm by which moving our voxels makes them agree best with a function of the points."""
    points = voxel_points(volume)
    ours = volume.voxels
    edges = np.flatnonzero((ours > -900).ravel())[:: max(1, ours.size // 10_000)]
    points, ours = points.reshape(-1, 3)[edges], ours.ravel()[edges]

    def cost(shift: np.ndarray) -> float:
        return float(np.abs(hu(points + shift).clip(-1000) - ours).mean())

    options = {"initial_simplex": np.vstack([np.zeros(3), np.eye(3)]), "xatol": 0.005, "fatol": 0.005}
    best = minimize(cost, np.zeros(3), method="Nelder-Mead", options=options)
    return float(np.linalg.norm(best.x))


def instances_of(series: Series) -> list[Instance]:
    """The slices of a series' volume, in geometric order."""
    few = SelectConfig(min_slices=2, min_coverage_mm=1, max_obliquity_deg=90)
    return [group[0] for group in select(series, few).positions]


def raw_field(series: Series, spacing: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """A series on the grid of its whole field, thinned in its planes: voxels and their LPS points."""
    instances = instances_of(series)
    with Decoder() as decoder:
        hu = np.stack([decoder.decode(instance).hu for instance in instances])
    slices = stack(instances)
    grid = field(slices, spacing)
    voxels = resample(hu, slices, grid, AIR_HU)
    thin = np.s_[:, ::3, ::3]
    index = np.stack([*np.indices(voxels.shape)], axis=-1)[thin]
    return voxels[thin], index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


PLAIN_HU = -900
"""Codes for "outside the circle" are air in our volume, and values interpolated with it differ."""


def lacking(
    series: Series, voxels: np.ndarray, points: np.ndarray, image: np.ndarray, to_ras: np.ndarray
) -> tuple[int, int]:
    """What either lacks: slices of the series beyond the image's, and of the image's that show more than air
    those in which our voxels show none.
    """
    slices = stack(instances_of(series))
    rows, columns = (size // 2 for size in slices.matrix)
    middles = (
        slices.positions
        + rows * slices.spacing[0] * slices.row_step
        + columns * slices.spacing[1] * slices.column_step
    )
    to_index = np.linalg.inv(to_ras)
    theirs = nibabel.affines.apply_affine(to_index, middles * [-1, -1, 1])[:, 2]
    ours = nibabel.affines.apply_affine(to_index, points[voxels > PLAIN_HU] * [-1, -1, 1])[:, 2]
    shown = np.flatnonzero((image > PLAIN_HU).mean(axis=(0, 1)) > 0.01)
    beyond = (theirs < -0.5) | (theirs > image.shape[2] - 0.5)
    return int(beyond.sum()), len(set(shown) - set(np.rint(ours)))


def differences(voxels: np.ndarray, points: np.ndarray, image: nibabel.Nifti1Image) -> np.ndarray:
    """Absolute differences in HU at those of our voxels that lie between the image's voxel centres.

    What ours shows beyond its rows and columns fails here, what either shows in other slices in `lacking`.
    """
    to_ras = image.get_qform()
    index = (points * [-1, -1, 1] - to_ras[:3, 3]) @ np.linalg.inv(to_ras[:3, :3]).T
    last = np.array(image.shape) - 1
    aside = np.any((index < -0.51) | (index > last + 0.51), axis=-1, where=[True, True, False])
    assert not (voxels[aside] > PLAIN_HU).any()
    within = np.all((index >= 0) & (index <= last), axis=-1)
    values = np.asarray(image.dataobj, np.float32)
    expected = map_coordinates(values, index[within].T, order=1)
    # Codes for "outside the circle" are air to us.
    plain = expected > PLAIN_HU
    return np.abs(voxels[within] - expected)[plain]


def test_a_series_with_a_missing_slice_agrees_with_dcm2niix(
    shared_dicom: Callable[[str], Path], tmp_path: Path
) -> None:
    """It also fills the gap of 10 mm among gaps of 5 mm linearly, but ends before the last slice."""
    folder = shared_dicom("dicom2nifti/failing/sliceincrement/001")
    series = scanned(folder, tmp_path / "catalog.parquet")[0]
    ours, image = raw_field(series, (2.5, 0.4, 0.4)), dcm2niix(folder, tmp_path / "nii")["_Eq_1"]
    assert lacking(series, *ours, np.asarray(image.dataobj), image.get_qform()) == (1, 0)
    result = differences(*ours, image)
    assert result.size > 1e5
    assert result.max() <= 1.1


def test_a_tilted_series_with_a_missing_slice_agrees_with_dcm2niix(
    shared_dicom: Callable[[str], Path], tmp_path: Path
) -> None:
    """Tilted by 15.5 degrees, 0.78 mm apart; it shears by fractions of rows, we by each slice's position."""
    folder = shared_dicom("dicom2nifti/failing/sliceincrement/002")
    series = scanned(folder, tmp_path / "catalog.parquet")[0]
    ours, image = raw_field(series, (0.5, 0.5, 0.5)), dcm2niix(folder, tmp_path / "nii")["_Tilt_Eq_1"]
    assert lacking(series, *ours, np.asarray(image.dataobj), image.get_qform()) == (1, 0)
    result = differences(*ours, image)
    assert result.size > 1e4
    assert np.median(result) <= 6
    assert np.mean(result) <= 25


@pytest.mark.parametrize("encoding", ["", "_jpeg", "_jpegls", "_j2k", "_rle"])
def test_sagittal_slices_of_every_encoding_agree_with_dcm2niix(
    encoding: str, shared_dicom: Callable[[str], Path], tmp_path: Path
) -> None:
    """MR images as CT. dcm2niix 2022 does not decode JPEG-LS: it gets another encoding."""
    root = shared_dicom("dicom2nifti/generic")
    for path in (root / f"compressed{encoding}").rglob("*.dcm"):
        data = pydicom.dcmread(path)
        data.Modality, data.RescaleSlope, data.RescaleIntercept = "CT", 1, 0
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        save(data, tmp_path / "export" / path.name)
    image = dcm2niix(root / "compressed_jpeg", tmp_path / "nii")[""]
    series = scanned(tmp_path / "export")[0]
    ours = raw_field(series, (0.9, 0.8, 1.0))
    assert lacking(series, *ours, np.asarray(image.dataobj), image.get_qform()) == (0, 0)
    result = differences(*ours, image)
    assert result.size > 1e4
    assert result.max() <= 0.51


SLANTED = {Quirk.TILT_POSITIVE, Quirk.TILT_NEGATIVE, Quirk.TWO_SLABS}
"""dcm2niix resamples these; the real ones are above."""
UNREAD = {Quirk.DEFLATED, Quirk.TRUNCATED_FILE, Quirk.DUPLICATE_POSITIONS}
"""It does not inflate, reads garbage as a slice, and gaps in numbers as a time series."""


def test_the_generators_series_agree_with_dcm2niix_and_with_the_head(tmp_path: Path) -> None:
    studies, seed, matrix = 12, 3, 96
    export(tmp_path / "export", studies, seed, matrix)
    truth = json.loads((tmp_path / "export" / "truth.json").read_text())
    catalog = {s.series_uid: s for s in scanned(tmp_path / "export" / "dicom")}
    compared: set[str] = set()
    for study, plan in zip(truth["studies"], plan_studies(seed, studies, matrix), strict=True):
        for made in study["series"]:
            series, quirks = catalog[made["series_instance_uid"]], {*made["quirks"]}
            # A head in two series is joined by the rules for studies.
            if made["kind"] != Kind.SOFT or made["expected"] != VOLUME or Quirk.BASE in quirks:
                continue
            volume = build_volume(series, GridConfig(spacing_mm=(2.0, 2.0, 2.0)), SelectConfig())
            points = voxel_points(volume)
            exact = head_hu(points, plan.head)
            brain = binary_erosion((exact > 15) & (exact < 60), iterations=2)
            assert brain.sum() > 1e4
            # Pixels of 2.5 mm and slices of 5 mm blur sulci and borders; the noise averages out.
            assert abs(np.median(volume.voxels[brain] - exact[brain])) < 1.5
            assert best_shift(volume, partial(head_hu, head=plan.head)) < 0.5
            if quirks & (SLANTED | UNREAD):
                continue
            folder = tmp_path / made["series_instance_uid"]
            folder.mkdir()
            for number, instance in enumerate(series.instances):
                shutil.copy(instance.path, folder / str(number))
            image = dcm2niix(folder, tmp_path / f"nii{study['index']}")[""]
            whole = raw_field(series, (2.5, 4.0, 4.0))  # the volume is cropped to the head
            assert lacking(series, *whole, np.asarray(image.dataobj), image.get_qform()) == (0, 0), quirks
            result = differences(volume.voxels, points, image)
            assert result.size > 1e5
            assert result.max() <= 1
            compared |= quirks
    wanted = {Quirk.FEET_FIRST, Quirk.TURNED, Quirk.BIG_ENDIAN, Quirk.JPEG2000}
    assert compared >= wanted, wanted - compared
