"""An array on the grid of a volume as NIfTI."""

import gzip
from typing import Any

import numpy as np
from numpy.typing import NDArray

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM's patient axes (PS3.3 C.7.6.2.1.1) to those of NIfTI-1 (nifti1.h, "orientation in space")."""


def nifti_bytes(values: NDArray[Any], affine: NDArray[np.float64], packed: bool = True) -> bytes:
    """A .nii.gz (or .nii) of values (D, H, W), whose affine maps (d, h, w, 1) to patient LPS mm.

    Stored with index order (w, h, d), in the directions of the volume's axes (right, anterior, superior).
    qform and sform are equal, in scanner RAS mm. The file contains no text, and the same input gives the
    same bytes.
    """
    import nibabel  # of the layer [preprocess]

    image = nibabel.Nifti1Image(values.transpose(2, 1, 0), LPS_TO_RAS @ affine[:, [2, 1, 0, 3]])
    image.set_sform(image.affine, code="scanner")
    image.set_qform(image.affine, code="scanner")
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0) if packed else image.to_bytes()
