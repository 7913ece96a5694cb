"""Reading a NIfTI file: its values and where they lie, in memory that its bytes account for."""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from preprocess.dicom.geometry import LARGEST_MATRIX, MOST_PIXELS
from preprocess.dicom.inflate import is_bomb
from shards.errors import FmctError, raise_refusal

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_GZIP = b"\x1f\x8b"
"""How a gzip file begins (RFC 1952 section 2.3.1), whatever its name."""
_HEADER_BYTES = 540
"""Of NIfTI-2, the longer one."""
_MOST_EXTENSIONS = 2**24
"""Bytes between header and values."""


def load_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values with the header's slope and intercept, (i, j, k), and the affine of the index to LPS mm.

    Raises FmctError for what is no NIfTI file, is larger than a scan can be or than its bytes account for,
    or does not say how it lies in the patient.
    """
    try:
        image = _open(path)
        values = np.asarray(image.dataobj)
    except FileNotFoundError:
        raise FmctError(f"{path}: no such file") from None
    except (
        *(ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, ValueError, OverflowError),
        zlib.error,
    ) as error:
        raise_refusal(error, path)
        raise FmctError(f"{path}: not a readable NIfTI file ({type(error).__name__})") from None
    header = image.header
    if not (int(header["qform_code"]) or int(header["sform_code"])):
        raise FmctError(
            f"{path}: qform and sform codes are 0, so nobody knows how it lies in the patient; convert it "
            "anew"
        )
    if header.get_xyzt_units()[0] not in ("mm", "unknown"):
        raise FmctError(f"{path}: its units are {header.get_xyzt_units()[0]}, not mm; convert it anew")
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    return values, _LPS_FROM_RAS @ image.affine


def _open(path: Path) -> Any:
    """The image of as many bytes as its header needs."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    with gzip.open(path) if packed else path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
        kind = nibabel.Nifti2Image if start[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nibabel.Nifti1Image
        header: Any = kind.header_class(start[: kind.header_class.sizeof_hdr], check=False)
        shape, offset = header.get_data_shape(), int(header["vox_offset"])
        needed = offset + math.prod(shape) * header.get_data_dtype().itemsize
        size = path.stat().st_size
        if (
            max(shape, default=0) > LARGEST_MATRIX
            or math.prod(shape) > MOST_PIXELS
            or not 0 <= offset <= _MOST_EXTENSIONS
            or (is_bomb(needed, size) if packed else needed > size)
        ):
            raise FmctError(
                f"{path}: {size} bytes cannot be the scan of {shape} voxels that its header tells of"
            )
        return kind.from_bytes(start + file.read(max(needed - len(start), 0)))
