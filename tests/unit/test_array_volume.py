"""NIfTI files and arrays: file names, and undefined voxels."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from preprocess.config import GridConfig
from preprocess.reader import read
from preprocess.reasons import Reason, Rejection
from preprocess.select.rules import SelectConfig
from preprocess.volume.array_volume import array_volume
from preprocess.volume.formats import open_volume

GRID, SELECT = GridConfig(spacing_mm=(4, 4, 4)), SelectConfig()


def ball() -> tuple[np.ndarray, np.ndarray]:
    """A skull around a brain with wide ventricles: float32 HU (30, 60, 60), and its affine."""
    points = (np.indices((30, 60, 60)).transpose(1, 2, 3, 0) - [15, 30, 30]) * [6, 3.5, 3.5]
    distance = np.linalg.norm(points, axis=-1)
    hu = np.select([distance < 40, distance < 72, distance < 80], [8.0, 35.0, 900.0], -1000.0)
    return hu.astype(np.float32), np.diag([6, 3.5, 3.5, 1])[[2, 1, 0, 3]]


def test_nan_outside_the_field_is_air() -> None:
    hu, affine = ball()
    holed = hu.copy()
    _, rows, columns = np.indices(hu.shape)
    holed[np.hypot(rows - 30, columns - 30) > 28] = np.nan
    holed[:2] = np.nan
    assert np.isnan(holed).mean() > 0.2
    whole, filled = (array_volume(values, affine, 0, GRID, SELECT) for values in (hu, holed))
    assert np.array_equal(whole.voxels, filled.voxels)
    assert np.array_equal(whole.affine, filled.affine)
    assert whole.source_digest == filled.source_digest


@pytest.mark.parametrize(("place", "value"), [((15, 30, 30), np.nan), ((0, 0, 0), np.inf)])
def test_a_hole_in_the_field_is_refused(place: tuple[int, int, int], value: float) -> None:
    hu, affine = ball()
    hu[0, 0, :5] = np.nan
    hu[place] = value
    with pytest.raises(Rejection) as caught:
        array_volume(hu, affine, 0, GRID, SELECT)
    assert caught.value.reason == Reason.NOT_HOUNSFIELD


@pytest.mark.parametrize("name", ["a.nii", "A.NII", "a.nii.gz", "A.NII.GZ", "packed.nii", "plain.nii.gz"])
def test_the_name_of_a_nifti_file_is_used_for_its_type_only(name: str, tmp_path: Path) -> None:
    """Upper-case suffixes, and gzip files that a browser unpacked without renaming."""
    hu, affine = ball()
    plain = nibabel.Nifti1Image(hu, np.diag([-1, -1, 1, 1]) @ affine).to_bytes()
    is_packed = name.lower().endswith(".gz") != name.startswith("p")
    (tmp_path / name).write_bytes(gzip.compress(plain) if is_packed else plain)
    file = open_volume(tmp_path / name)
    values = np.stack([file.read(index) for index in range(file.shape[0])])
    assert np.array_equal(values, hu.transpose(2, 1, 0))
    assert file.affine is not None
    assert np.allclose(file.affine, affine[:, [2, 1, 0, 3]])
    (volume,) = read(tmp_path / name, None, None)
    assert volume.facts.transfer_syntax == ""
