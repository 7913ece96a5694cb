"""NRRD and MetaImage, the formats of ITK and 3D Slicer, read by SimpleITK (the extra `import`).

ITK allocates memory for any size in a header, follows its paths, and returns partly decoded damaged streams,
so `preprocess.volume.text_header` checks the header first.
"""

import math
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from preprocess.dicom.geometry import LARGEST_MATRIX, MAX_PIXELS, UNIT_LENGTH
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
"""NRRD's names of patient axes, all of which ITK converts to LPS."""
_PLACING: dict[str, tuple[tuple[tuple[str, ...], int], ...]] = {
    "NrrdImageIO": ((("spacedirections",), 9), (("spaceorigin",), 3)),
    "MetaImageIO": (
        (("transformmatrix", "rotation", "orientation"), 9),
        (("offset", "position", "origin"), 3),
        (("elementspacing",), 3),
    ),
}
"""Required fields, by any of their names, and the count of their numbers for three axes. Without them, or for
`none` or NaN, ITK assumes a position."""
_MILLIMETRES = ("", "?", "mm")
"""MetaImage's names of units that are mm or unknown."""
_REMEDY = "export it again from its source"


def open_nrrd(path: Path) -> VolumeFile:
    """The volume of a NRRD file (.nrrd, .nhdr).

    Raises Rejection if it is damaged, has no position in the patient or declares more values than its bytes
    hold, and FmctError if SimpleITK is not installed.
    """
    header = read_nrrd(path)
    space = header.fields.get("space", "").lower()
    if space not in _SPACES:
        raise Rejection(Reason.MISSING_GEOMETRY, f"space: not axes of the patient; {_REMEDY}")
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
            raise Rejection(Reason.NOT_HOUNSFIELD, f"{name}: the values require rescaling; save them as HU")
    if header.fields.get("distanceunits", "").lower() not in _MILLIMETRES:  # ITK ignores them
        raise Rejection(Reason.INVALID_GEOMETRY, f"DistanceUnits: not mm; {_REMEDY}")
    return _opened(path, header, "MetaImageIO")


def _opened(path: Path, header: TextHeader, format: str) -> VolumeFile:
    for names, _ in _PLACING[format]:
        if not set(names) & set(header.fields):
            raise Rejection(
                Reason.MISSING_GEOMETRY, f"{names[0]}: missing, so its orientation is unknown; {_REMEDY}"
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
    _require_placed(reader, header, format)
    kind = _itk().GetPixelIDValueAsString(reader.GetPixelID())  # such as "16-bit signed integer"
    needed = math.prod(size) * int(kind.split("-")[0]) // 8
    if (
        max(size) > LARGEST_MATRIX
        or math.prod(size) > MAX_PIXELS
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


def _require_placed(reader: Any, header: TextHeader, format: str) -> None:
    """Raise Rejection(invalid_geometry) unless `_PLACING` has numbers, and the axes are unit vectors."""
    for names, count in _PLACING[format]:
        for name in set(names) & set(header.fields):
            words = re.split(r"[\s,()]+", header.fields[name].strip(" ()"))
            try:
                numbers = np.array(words, np.float64)
            except ValueError:
                numbers = np.empty(0)
            if len(numbers) != count or not np.isfinite(numbers).all():
                raise Rejection(Reason.INVALID_GEOMETRY, f"{name}: not {count} numbers; {_REMEDY}")
    lengths = np.linalg.norm(np.reshape(reader.GetDirection(), (3, 3)), axis=0)
    if np.abs(lengths - 1).max() > UNIT_LENGTH:
        raise Rejection(Reason.INVALID_GEOMETRY, f"its axes are not unit vectors; {_REMEDY}")


def _affine(reader: Any) -> np.ndarray:
    """(slice, row, column, 1) to LPS mm; ITK's own affine is for (column, row, slice)."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
    affine[:3, 3] = reader.GetOrigin()
    return affine[:, [2, 1, 0, 3]]


def _or_refused(call: Callable[[], Any], reason: Reason) -> Any:
    """The result of `call`; errors become a Rejection without ITK's or zlib's text (it names the file)."""
    try:
        return call()
    except (RuntimeError, zlib.error) as error:
        raise Rejection(reason, f"not readable ({type(error).__name__}); copy it again") from None


def _itk() -> ModuleType:
    try:
        import SimpleITK as sitk  # noqa: N813
    except ImportError:
        raise FmctError("NRRD and MetaImage require SimpleITK: pip install 'fmct-hpc[import]'") from None
    return sitk
