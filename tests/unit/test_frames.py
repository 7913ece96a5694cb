"""Multi-frame CT: every frame is a separate image, from any place of its attributes."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import Acquisition, axial, save, scanned, waves
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from scipy.spatial.transform import Rotation

from preprocess.config import GridConfig
from preprocess.dicom.catalog import Instance
from preprocess.dicom.decode import Decoder
from preprocess.reasons import Reason, Rejection
from preprocess.scan.run import scan
from preprocess.select.rules import SelectConfig
from preprocess.select.series import select
from preprocess.volume.build import Volume, build_volume

GRID = GridConfig(spacing_mm=(2.0, 2.0, 2.0))


def build(folder: Path) -> Volume:
    series = scanned(folder)
    assert len(series) == 1
    return build_volume(series[0], GRID, SelectConfig())


def uneven() -> Acquisition:
    """A tilted scan in two slabs."""
    heights = np.concatenate([[0], np.cumsum([3.0] * 12 + [4.1] + [6.0] * 14)])
    tilt = Rotation.from_euler("x", 14, degrees=True)
    positions = np.array([-70.0, -60, 10]) + heights[:, None] * np.array([0, 0, 1.0])
    return Acquisition(positions, row_step=tilt.apply([0, 1, 0]))


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless]
)
def test_an_enhanced_object_gives_the_volume_of_its_slices(syntax: str, tmp_path: Path) -> None:
    scan = uneven()
    plain = build(scan.write(tmp_path / "slices", waves))
    order = np.random.default_rng(0).permutation(len(scan.positions))
    path = tmp_path / "enhanced" / "object"
    data = scan.write_frames(path, waves, enhanced=True, order=order)
    if syntax in (RLELossless, JPEG2000Lossless):
        data.compress(syntax, generate_instance_uid=False)
    data.file_meta.TransferSyntaxUID = UID(syntax)
    save(data, path)
    volume = build(path.parent)
    assert np.array_equal(volume.voxels, plain.voxels)
    assert np.array_equal(volume.affine, plain.affine)
    assert volume.source_digest == plain.source_digest
    assert volume.facts.model_copy(update={"transfer_syntax": plain.facts.transfer_syntax}) == plain.facts


@pytest.mark.parametrize("gap", [5.0, -5.0])
def test_a_classic_object_is_stacked_along_its_normal(gap: float, tmp_path: Path) -> None:
    scan = axial(gap=gap)
    plain = build(scan.write(tmp_path / "slices", waves))
    scan.write_frames(tmp_path / "classic" / "object", waves, enhanced=False)
    volume = build(tmp_path / "classic")
    assert np.array_equal(volume.voxels, plain.voxels)
    assert volume.source_digest == plain.source_digest


def test_frames_without_positions_are_rejected(tmp_path: Path) -> None:
    axial().write_frames(tmp_path / "export" / "a", waves, enhanced=False, SpacingBetweenSlices=None)
    series = scanned(tmp_path / "export")[0]
    assert len(series.instances) == 1
    with pytest.raises(Rejection) as caught:
        select(series, SelectConfig())
    assert caught.value.reason == Reason.MISSING_GEOMETRY


def test_frames_keep_per_frame_attributes(tmp_path: Path) -> None:
    path = tmp_path / "export" / "object"
    data = axial().write_frames(path, waves, enhanced=True)
    groups = data.PerFrameFunctionalGroupsSequence
    groups[3].PixelValueTransformationSequence[0].RescaleIntercept = -100
    groups[4].PixelValueTransformationSequence[0].RescaleType = "Z_EFF"
    groups[5].CTImageFrameTypeSequence[0].FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
    save(data, path)
    series = scanned(path.parent)[0]
    frames = {i.frame: i for i in series.instances}
    assert sorted(frames) == list(range(24))
    assert series.bytes == path.stat().st_size
    assert series.repeated_sop_uids == 0
    assert (series.kernel, series.kvp) == ("H30s", 120)
    with Decoder() as decoder:
        shifted = decoder.decode(frames[3]).hu
        with pytest.raises(Rejection, match="not_hounsfield"):
            decoder.decode(frames[4])
    expected = data.pixel_array[3] - 100
    assert np.array_equal(shifted, expected)
    volume = build_volume(series, GRID, SelectConfig(max_slice_gap_mm=15))
    assert dict(volume.dropped) == {Reason.LOCALIZER: 1, Reason.NOT_HOUNSFIELD: 1, Reason.MISSING_SLICES: 2}


def test_a_scan_counts_files_and_repeated_objects(tmp_path: Path) -> None:
    axial().write_frames(tmp_path / "export" / "a", waves, enhanced=True)
    (tmp_path / "export" / "b").write_bytes((tmp_path / "export" / "a").read_bytes())
    summary = scan(tmp_path / "export", tmp_path / "catalog.parquet")
    assert (summary.files, summary.objects, summary.repeated.same_bytes) == (2, 2, 1)
    assert dict(build(tmp_path / "export").dropped) == {Reason.DUPLICATE_SLICE: 24}


@pytest.mark.parametrize("frames", [23, 25, 0x7FFFFFFF])
def test_a_wrong_number_of_frames_is_a_broken_header(frames: int, tmp_path: Path) -> None:
    path = tmp_path / "export" / "object"
    data = axial().write_frames(path, waves, enhanced=True)
    data.NumberOfFrames = frames
    save(data, path)
    axial().write(tmp_path / "export", waves)
    summary = scan(tmp_path / "export", tmp_path / "catalog.parquet")
    assert summary.rejected == {Reason.BROKEN_HEADER: 1}


def test_a_truncated_object_loses_its_last_frames(tmp_path: Path) -> None:
    path = tmp_path / "export" / "object"
    axial().write_frames(path, waves, enhanced=True)
    path.write_bytes(path.read_bytes()[: -2 * 2 * 48 * 48])
    assert dict(build(path.parent).dropped) == {Reason.TRUNCATED_PIXEL_DATA: 2}


def test_a_single_frame_is_decoded_alone(tmp_path: Path) -> None:
    """The other frames' bytes are damaged; only the requested one is decoded."""
    path = tmp_path / "export" / "object"
    data = axial().write_frames(path, waves, enhanced=True)
    whole = data.pixel_array[7]
    data.compress(JPEG2000Lossless, generate_instance_uid=False)
    encoded = list(pydicom.encaps.generate_frames(data.PixelData, number_of_frames=24))
    data.PixelData = pydicom.encaps.encapsulate([f if k == 7 else b"damaged" for k, f in enumerate(encoded)])
    save(data, path)
    instances: dict[int, Instance] = {i.frame: i for i in scanned(path.parent)[0].instances}
    with Decoder() as decoder:
        with pytest.raises(Rejection, match="undecodable"):
            decoder.decode(instances[6])
        assert np.array_equal(decoder.decode(instances[7]).hu, whole)
