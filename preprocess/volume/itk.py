"""NRRD and MetaImage, read by SimpleITK (the extra `import`): the formats of ITK and 3D Slicer.

ITK believes what a header claims and takes memory for it, goes where it points, and returns what it could
decode of a damaged stream, so `preprocess.volume.text_header` is asked first.
"""

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from preprocess.dicom.geometry import LARGEST_MATRIX, MOST_PIXELS
from preprocess.dicom.inflate import is_bomb
from preprocess.reasons import Reason, Rejection
from preprocess.volume.text_header import TextHeader, read_metaimage, read_nrrd
from preprocess.volume.volume_file import VolumeFile
from shards.errors import FmctError

_SPACES = (
    "lps",
    "ras",
    "las",
    "left-posterior-superior",
    "right-anterior-superior",
    "left-anterior-superior",
)
"""NRRD's names of the patient's axes, all of which ITK brings to LPS."""
_PLACING = {
    "NrrdImageIO": (("spacedirections",), ("spaceorigin",)),
    "MetaImageIO": (
        ("transformmatrix", "rotation", "orientation"),
        ("offset", "position", "origin"),
        ("elementspacing",),
    ),
}
"""Fields, by any of their names, without which ITK would place the volume as it likes."""
_REMEDY = "export it again from its source"


def open_nrrd(path: Path) -> VolumeFile:
    """The volume of a NRRD file (.nrrd, .nhdr).

    Raises Rejection for what is damaged, has no place in the patient or claims more than its bytes hold, and
    FmctError where SimpleITK is not installed.
    """
    header = read_nrrd(path)
    space = header.fields.get("space", "").lower()
    if space not in _SPACES:
        raise Rejection(Reason.MISSING_GEOMETRY, f"space: does not name axes of the patient; {_REMEDY}")
    units = set(header.fields.get("spaceunits", "").replace('"', " ").split())
    if units - {"mm"}:
        raise Rejection(Reason.INVALID_GEOMETRY, f"space units: not mm; {_REMEDY}")
    return _opened(path, header, "NrrdImageIO")


def open_metaimage(path: Path) -> VolumeFile:
    """The volume of a MetaImage file (.mha, .mhd); raises as `open_nrrd` does."""
    header = read_metaimage(path)
    for name, neutral in (
        ("elementtointensityfunctionslope", 1.0),
        ("elementtointensityfunctionoffset", 0.0),
    ):
        if header.fields.get(name, str(neutral)) not in (str(neutral), f"{neutral:g}"):
            raise Rejection(Reason.NOT_HOUNSFIELD, f"{name}: values that need rescaling; save them as HU")
    return _opened(path, header, "MetaImageIO")


def _opened(path: Path, header: TextHeader, format: str) -> VolumeFile:
    for names in _PLACING[format]:
        if not set(names) & set(header.fields):
            raise Rejection(
                Reason.MISSING_GEOMETRY, f"{names[0]}: absent, so its orientation is unknown; {_REMEDY}"
            )
    reader = _itk().ImageFileReader()
    reader.SetImageIO(format)
    reader.SetFileName(str(path))
    _or_refused(reader.ReadImageInformation, Reason.BROKEN_HEADER)
    size = reader.GetSize()
    if len(size) != 3 or reader.GetNumberOfComponents() != 1:
        raise Rejection(
            Reason.INVALID_GEOMETRY, f"sizes: an array of {size}; expected one volume of three axes"
        )
    kind = _itk().GetPixelIDValueAsString(reader.GetPixelID())  # such as "16-bit signed integer"
    needed = math.prod(size) * int(kind.split("-")[0]) // 8
    if (
        max(size) > LARGEST_MATRIX
        or math.prod(size) > MOST_PIXELS
        or (is_bomb(needed, header.data_bytes) if header.packed else needed > header.data_bytes)
    ):
        detail = f"{header.data_bytes} bytes cannot be the scan of {size} voxels that its header declares"
        raise Rejection(Reason.TRUNCATED_PIXEL_DATA, detail)
    image: list[Any] = []

    def read(index: int) -> np.ndarray:
        if not image:
            _or_refused(lambda: header.require_whole(needed), Reason.TRUNCATED_PIXEL_DATA)
            image.append(_or_refused(reader.Execute, Reason.TRUNCATED_PIXEL_DATA))
        return _itk().GetArrayViewFromImage(image[0])[index]

    beside = None if header.data == path else header.data
    return VolumeFile((size[2], size[1], size[0]), _affine(reader), read, beside)


def _affine(reader: Any) -> np.ndarray:
    """(slice, row, column, 1) to LPS mm; ITK's own is of (column, row, slice)."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
    affine[:3, 3] = reader.GetOrigin()
    return affine[:, [2, 1, 0, 3]]


def _or_refused(call: Callable[[], Any], reason: Reason) -> Any:
    """What `call` returns; a Rejection without the text of ITK's and zlib's errors, which names the file."""
    try:
        return call()
    except (RuntimeError, zlib.error) as error:
        raise Rejection(reason, f"not readable ({type(error).__name__}); copy it again") from None


def _itk() -> ModuleType:
    try:
        import SimpleITK as sitk  # noqa: N813
    except ImportError:
        raise FmctError("NRRD and MetaImage are read by SimpleITK: pip install 'fmct-hpc[import]'") from None
    return sitk
