"""One scan as DICOM and as the files of other formats, for the tests of `fmct import`."""

from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813
from dicom_files import Acquisition
from numpy.typing import DTypeLike
from preprocess_export import head

_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def as_array(acquisition: Acquisition) -> tuple[np.ndarray, np.ndarray]:
    """int16 HU (slice, row, column) of the tests' head, and the affine of that index to LPS mm."""
    hu = np.rint([head(acquisition.points(position)) for position in acquisition.positions])
    affine = np.eye(4)
    affine[:3, 0] = acquisition.positions[1] - acquisition.positions[0]
    affine[:3, 1] = acquisition.row_step * acquisition.spacing[0]
    affine[:3, 2] = acquisition.column_step * acquisition.spacing[1]
    affine[:3, 3] = acquisition.positions[0]
    return hu.astype(np.int16), affine


def write_nifti(
    hu: np.ndarray,
    affine: np.ndarray,
    path: Path,
    dtype: DTypeLike = np.int16,
    codes: tuple[int, int] = (1, 1),
) -> Path:
    """The index (slice, row, column) and its affine to LPS in NIfTI's convention: (i, j, k), RAS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(hu.transpose(2, 1, 0).astype(dtype), None)
    ras = _RAS_FROM_LPS @ affine[:, [2, 1, 0, 3]]
    image.header.set_zooms(np.linalg.norm(ras[:3, :3], axis=0))
    if codes[0]:
        image.set_qform(ras, codes[0])
    if codes[1]:
        image.set_sform(ras, codes[1])
    nibabel.save(image, path)
    return path


def write_itk(hu: np.ndarray, affine: np.ndarray, path: Path, packed: bool = True) -> Path:
    """Write .nrrd, .mha or .mhd, by the name, with SimpleITK."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(hu)
    own = affine[:3, [2, 1, 0]]
    spacing = np.linalg.norm(own, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((own / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    sitk.WriteImage(image, path, packed)
    return path


def write_nrrd_ras(hu: np.ndarray, affine: np.ndarray, path: Path) -> Path:
    """Written directly, uncompressed, in RAS, as by older versions of 3D Slicer and other programs."""
    own = _RAS_FROM_LPS @ affine[:, [2, 1, 0, 3]]
    vectors = ["({})".format(",".join(map(repr, own[:3, axis].tolist()))) for axis in range(4)]
    lines = [
        *("NRRD0004", "type: short", "dimension: 3", "space: right-anterior-superior", "endian: little"),
        "sizes: {2} {1} {0}".format(*hu.shape),
        f"space directions: {' '.join(vectors[:3])}",
        *("encoding: raw", f"space origin: {vectors[3]}", "", ""),
    ]
    path.write_bytes("\n".join(lines).encode() + hu.astype("<i2").tobytes())
    return path
