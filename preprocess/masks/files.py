"""Reading a mask file: NIfTI, NRRD or MetaImage of integers, or a DICOM Segmentation object."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preprocess.masks.classes import Classes
from preprocess.masks.planes import Planes, array_planes
from preprocess.masks.segmentation import is_dicom, read_segmentation
from preprocess.reasons import Reason, Rejection
from preprocess.volume.formats import format_of, open_volume
from preprocess.volume.volume_file import VolumeFile

_ROUNDING = 0.01
"""Greatest distance of a stored value from its integer. nibabel scales floats that it saves with the header
of an int16 scan to the range of int16 ("data scaling"), so that labels of 0 to n are off by n / 65535 / 2."""


def read_planes(path: Path, classes: Classes, of_class: int | None) -> tuple[Planes, str | None]:
    """The mask in a file, and its Study Instance UID (None unless DICOM).

    of_class: the class of all values other than 0; None: classes follow from the values or segments. Raises
    Rejection if it is not a mask, has no orientation, or holds an unlisted class, and FmctError if the
    machine fails.
    """
    if format_of(path) is not None:
        volume = open_volume(path)
        if volume.affine is None:
            raise Rejection(Reason.MISSING_GEOMETRY, "the file has no orientation; convert it to NIfTI")
        return array_planes(_bits(volume, classes, of_class), volume.affine), None
    if not is_dicom(path):
        raise Rejection(
            Reason.UNSUPPORTED_FORMAT, "neither DICOM nor NIfTI, NRRD or MetaImage by its name; convert it"
        )
    return read_segmentation(path, classes, of_class)


def _bits(volume: VolumeFile, classes: Classes, of_class: int | None) -> NDArray[np.int16]:
    bits = np.zeros(volume.shape, np.int16)
    for number in range(volume.shape[0]):
        values = volume.read(number)
        if values.dtype.kind not in "biuf":
            raise Rejection(
                Reason.INVALID_VALUE, f"values of type {values.dtype}; save one integer per voxel"
            )
        if values.dtype.kind == "f":
            values = _labels(values)
        for value in np.unique(values):
            if value:
                bits[number][values == value] |= 1 << (
                    class_of(str(int(value)), classes, "value") if of_class is None else of_class
                )
    return bits


def _labels(values: NDArray[np.floating]) -> NDArray[np.floating]:
    whole = np.rint(values)
    lost = values.any() and not whole.any()  # a map of small numbers is no mask
    if lost or not np.isfinite(values).all() or np.abs(values - whole).max() > _ROUNDING:
        raise Rejection(Reason.INVALID_VALUE, "values that are not integers; threshold them first")
    return whole


def class_of(value: str, classes: Classes, what: str) -> int:
    """The class of a value; raises Rejection(unlisted_class), which quotes only numbers, no text."""
    if value not in classes.values:
        shown = f" {value}" if value.lstrip("-").isdecimal() else ""
        raise Rejection(Reason.UNLISTED_CLASS, f"{what}{shown} belongs to no class; give it with --class")
    return classes.values[value]
