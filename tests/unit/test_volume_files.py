"""Headers of volume files are checked against their content."""

import gzip
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_files import axial
from volume_files import as_array, write_itk, write_nifti, write_nrrd_ras

from preprocess.reasons import Reason, Rejection
from preprocess.volume.formats import open_volume
from preprocess.volume.hounsfield import require_defined, to_hu
from preprocess.volume.volume_file import VolumeFile

HU, AFFINE = as_array(axial(slices=24, gap=6.0, start=(-70, -60, -10)))
# Without noise a changed deflate distance could refer to equal bytes.
HU += np.random.default_rng(0).integers(0, 32, HU.shape, np.int16)


def whole(volume: VolumeFile) -> np.ndarray:
    return np.stack([volume.read(index) for index in range(volume.shape[0])])


def affine_of(volume: VolumeFile) -> np.ndarray:
    assert volume.affine is not None
    return volume.affine


def refusal(path: Path) -> Reason:
    with pytest.raises(Rejection) as caught:
        whole(open_volume(path))
    assert path.stem not in caught.value.detail
    return caught.value.reason


WRITERS: dict[str, Callable[[np.ndarray, np.ndarray, Path], Path]] = {
    "secret.nii": write_nifti,
    "secret.nii.gz": write_nifti,
    "secret.nrrd": write_itk,
    "secret.mha": write_itk,
    "raw.nrrd": partial(write_itk, packed=False),
    "raw.mha": partial(write_itk, packed=False),
    "ras.nrrd": write_nrrd_ras,
    "secret.mhd": write_itk,
    "secret.nhdr": write_itk,
}


@pytest.mark.parametrize("name", WRITERS)
def test_truncations_and_flipped_bits_of_packed_values_are_detected(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](HU, AFFINE, tmp_path / name)
    (data,) = set(tmp_path.iterdir()) - {path} or {path}
    good = data.read_bytes()
    volume = open_volume(path)
    assert (whole(volume) == HU).all()
    assert np.allclose(affine_of(volume), AFFINE, atol=1e-4)
    for share in (0.999, 0.9, 0.5, 0.1, 0.01):
        data.write_bytes(good[: int(share * len(good))])
        assert refusal(path) in (Reason.TRUNCATED_PIXEL_DATA, Reason.BROKEN_HEADER), share
    if b"gzip" in good[:400] or b"CompressedData = True" in good[:400] or path.suffix == ".gz":
        for share in (0.6, 0.8, 0.97):
            flipped = bytearray(good)
            flipped[int(share * len(good))] ^= 16
            data.write_bytes(flipped)
            assert refusal(path) is Reason.TRUNCATED_PIXEL_DATA, share


def header_of(path: Path, **changes: object) -> Path:
    """The NIfTI file with other header fields."""
    image = nibabel.load(path)
    header = bytearray(path.read_bytes())
    there = nibabel.Nifti1Header(bytes(header[:348]), check=False)
    for name, value in changes.items():
        there[name] = value
    header[:348] = there.binaryblock
    del image
    path.write_bytes(header)
    return path


def test_a_nifti_file_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.nii"
    halved = np.array([1, 1.5, 3, 6, 1, 1, 1, 1], np.float32)
    for changes, reason in (
        ({"pixdim": halved, "qform_code": 0}, Reason.INCONSISTENT_GEOMETRY),
        ({"srow_z": [0, 0, 12, 10], "qform_code": 0}, Reason.INCONSISTENT_GEOMETRY),
        ({"qoffset_z": 13.0}, Reason.INCONSISTENT_GEOMETRY),
        ({"srow_x": [3, 0, 0, 70]}, Reason.INCONSISTENT_GEOMETRY),
        ({"qform_code": 0, "sform_code": 0}, Reason.MISSING_GEOMETRY),
        ({"qform_code": 0, "sform_code": 4}, Reason.MISSING_GEOMETRY),
        ({"xyzt_units": 1}, Reason.INVALID_GEOMETRY),
        ({"pixdim": np.array([1, -3, 3, 6, 1, 1, 1, 1], np.float32)}, Reason.INVALID_GEOMETRY),
        ({"pixdim": np.array([np.nan, 3, 3, 6, 1, 1, 1, 1], np.float32)}, Reason.INVALID_GEOMETRY),
        ({"xyzt_units": 3}, Reason.INVALID_GEOMETRY),
        ({"xyzt_units": 5}, Reason.INVALID_GEOMETRY),
        ({"xyzt_units": 255}, Reason.INVALID_GEOMETRY),
        ({"datatype": 9999}, Reason.BROKEN_HEADER),
        ({"datatype": 0}, Reason.BROKEN_HEADER),
        ({"scl_slope": 1.0, "scl_inter": np.nan}, Reason.BROKEN_HEADER),
        ({"magic": b""}, Reason.BROKEN_HEADER),
        ({"vox_offset": 0.0}, Reason.BROKEN_HEADER),  # nibabel would read the header as values
        ({"srow_z": [0, 0, np.nan, 0]}, Reason.INVALID_GEOMETRY),
    ):
        assert refusal(header_of(write_nifti(HU, AFFINE, path), **changes)) is reason, changes
    for codes in ((1, 0), (0, 1), (1, 1), (2, 1), (1, 4)):  # a template's sform is not the patient's position
        volume = open_volume(write_nifti(HU, AFFINE, path, codes=codes))
        assert np.allclose(affine_of(volume), AFFINE, atol=1e-4), codes
    header_of(path, xyzt_units=2 + 64)  # mm, and an undefined unit of time
    assert np.allclose(affine_of(open_volume(path)), AFFINE, atol=1e-4)


def test_no_sign_in_pixdim_is_plus(tmp_path: Path) -> None:
    """nifti1.h: "If pixdim[0]=0.0 (which should not occur), we take qfac=1"."""
    zooms = np.array([0, 3, 3, 6, 1, 1, 1, 1], np.float32)
    for codes in ((1, 0), (0, 1), (1, 1)):
        path = header_of(write_nifti(HU, AFFINE, tmp_path / "secret.nii", codes=codes), pixdim=zooms)
        assert np.allclose(affine_of(open_volume(path)), AFFINE, atol=1e-4), codes


def test_other_bytes_after_packed_values_are_ignored_but_not_a_second_part(tmp_path: Path) -> None:
    path = write_nifti(HU, AFFINE, tmp_path / "secret.nii.gz")
    packed = path.read_bytes()
    plain = gzip.decompress(packed)
    parts = gzip.compress(plain[:1000]) + gzip.compress(plain[1000:])
    for data in (packed + b"other", packed + bytes(1000), parts, parts + b"\x1f"):
        path.write_bytes(data)
        assert np.array_equal(whole(open_volume(path)), HU)
    damaged = bytearray(parts)
    damaged[-6] ^= 1  # the checksum of the last part
    for data in (parts[:-100], bytes(damaged)):
        path.write_bytes(data)
        assert refusal(path) is Reason.TRUNCATED_PIXEL_DATA


def test_equivalent_ways_to_write_a_nrrd_header_are_read(tmp_path: Path) -> None:
    path = write_nrrd_ras(HU, AFFINE, tmp_path / "secret.nrrd")
    data = path.read_bytes()
    (tmp_path / "b.raw").write_bytes(HU.astype("<i2").tobytes())
    for new in (
        b"encoding: RAW",
        b"encoding: raw\nbyte skip: 0\nline skip: 0",
        b"encoding: raw\ndata file: ./b.raw",
    ):
        path.write_bytes(data.replace(b"encoding: raw", new, 1))
        assert np.array_equal(whole(open_volume(path)), HU)


def test_both_conventions_of_slice_distance_in_a_tilted_stack_are_read(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[:3, 0] = [0, 2.0, 6.0]
    path = write_nifti(HU, affine, tmp_path / "secret.nii", codes=(0, 1))
    assert np.allclose(affine_of(open_volume(path)), affine, atol=1e-4)
    zooms = np.array([1, 3, 3, 6, 1, 1, 1, 1], np.float32)
    assert np.allclose(affine_of(open_volume(header_of(path, pixdim=zooms))), affine, atol=1e-4)


LONG = b"b" * 300 + b".raw"
"""A name longer than file systems allow."""


@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        (
            "secret.nrrd",
            b"space: right-anterior-superior\n",
            b"space dimension: 3\n",
            Reason.MISSING_GEOMETRY,
        ),
        ("secret.nrrd", b"space: right-anterior-superior", b"space: scanner-xyz", Reason.MISSING_GEOMETRY),
        ("secret.nrrd", b"space origin", b"comment", Reason.MISSING_GEOMETRY),
        ("secret.nrrd", b"endian", b'space units: "m" "m" "m"\nendian', Reason.INVALID_GEOMETRY),
        ("secret.nrrd", b"encoding: raw", b"encoding: ascii", Reason.UNSUPPORTED_FORMAT),
        ("secret.nrrd", b"encoding: raw", b"encoding: raw\ndata file: ../b.raw", Reason.UNSUPPORTED_FORMAT),
        ("secret.nrrd", b"encoding: raw", b"encoding: raw\ndata file: b.raw", Reason.MISSING_FILE),
        ("secret.nrrd", b"encoding: raw", b"encoding: raw\ndata file: " + LONG, Reason.MISSING_FILE),
        ("secret.mha", b"ElementDataFile = LOCAL", b"ElementDataFile = " + LONG, Reason.MISSING_FILE),
        ("secret.nrrd", b"sizes: 48 48 24", b"sizes: 4000 4000 60", Reason.TRUNCATED_PIXEL_DATA),
        ("secret.nrrd", b"NRRD0004", b"NOTHING4", Reason.BROKEN_HEADER),
        ("secret.mha", b"TransformMatrix", b"Comment", Reason.MISSING_GEOMETRY),
        ("secret.mha", b"ElementSpacing", b"Comment", Reason.MISSING_GEOMETRY),
        (
            "secret.mha",
            b"ElementDataFile = LOCAL",
            b"ElementDataFile = /etc/passwd",
            Reason.UNSUPPORTED_FORMAT,
        ),
        ("secret.mha", b"ElementDataFile = LOCAL", b"ElementDataFile = LIST", Reason.UNSUPPORTED_FORMAT),
        ("secret.mha", b"DimSize = 48 48 24", b"DimSize = 4000 4000 60", Reason.TRUNCATED_PIXEL_DATA),
        ("secret.mha", b"BinaryData = True", b"BinaryData = False", Reason.UNSUPPORTED_FORMAT),
        ("secret.mha", b"NDims", b"ElementToIntensityFunctionSlope = 2\nNDims", Reason.NOT_HOUNSFIELD),
        ("secret.mha", b"NDims", b"DistanceUnits = cm\nNDims", Reason.INVALID_GEOMETRY),
        ("secret.mha", b"Offset = ", b"Offset = nan 1 1\nComment = ", Reason.INVALID_GEOMETRY),
        ("secret.mha", b"TransformMatrix = 1", b"TransformMatrix = 2", Reason.INVALID_GEOMETRY),
        ("secret.nrrd", b"space origin: ", b"space origin: none\n# ", Reason.INVALID_GEOMETRY),
        ("secret.nrrd", b"(-3.0,0.0,0.0)", b"none", Reason.INVALID_GEOMETRY),
    ],
)
def test_a_misleading_header_is_refused(
    tmp_path: Path, name: str, old: bytes, new: bytes, reason: Reason
) -> None:
    path = write_nrrd_ras(HU, AFFINE, tmp_path / name)
    if name.endswith("mha"):
        write_itk(HU, AFFINE, path, packed=False)
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    assert refusal(path) is reason


def test_small_files_that_declare_a_volume_allocate_no_memory(tmp_path: Path) -> None:
    path = write_itk(HU, AFFINE, tmp_path / "secret.mha")
    head = path.read_bytes().split(b"LOCAL\n")[0].replace(b"DimSize = 48 48 24", b"DimSize = 900 900 900")
    path.write_bytes(head + b"LOCAL\n" + zlib.compress(bytes(10**6)))
    assert refusal(path) is Reason.TRUNCATED_PIXEL_DATA
    array = tmp_path / "secret.npy"
    np.save(array, HU)
    array.write_bytes(array.read_bytes()[:500])
    assert refusal(array) is Reason.BROKEN_HEADER
    np.save(array, np.array([[[{}]]]), allow_pickle=True)
    assert refusal(array) is Reason.BROKEN_HEADER
    (tmp_path / "secret.nii.gz").write_bytes(gzip.compress(b"no header"))
    assert refusal(tmp_path / "secret.nii.gz") is Reason.BROKEN_HEADER


def test_undefined_values_are_air_only_outside_the_head() -> None:
    values = HU.astype(np.float32)
    corner = values.copy()
    corner[:, :4, :4] = np.nan
    require_defined(corner)
    assert (to_hu(corner)[:, :4, :4] == -1000).all()
    everywhere = values.copy()
    everywhere[:1] = np.nan  # slices beyond the head
    require_defined(everywhere)
    brain = values > -500
    for wrong in (
        np.where(np.indices(HU.shape).sum(axis=0) == 58, np.nan, values),  # within the head
        np.where(brain, values, np.nan),  # a head that was masked
        np.where(np.arange(len(values))[:, None, None] == 12, np.nan, values),  # a lost slice
        np.where(brain, np.inf, values),
    ):
        with pytest.raises(Rejection) as caught:
            require_defined(wrong)
        assert caught.value.reason is Reason.NOT_HOUNSFIELD
