"""Reading a mask's file: NIfTI, NRRD or MetaImage of whole numbers, or a DICOM Segmentation object."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preprocess.masks.classes import Classes
from preprocess.masks.planes import Planes, array_planes
from preprocess.masks.segmentation import is_dicom, read_segmentation
from preprocess.reasons import Reason, Rejection
from preprocess.volume.formats import format_of, open_volume
from preprocess.volume.volume_file import VolumeFile


def read_planes(path: Path, classes: Classes, of_class: int | None) -> tuple[Planes, str | None]:
    """The mask in a file, and the Study Instance UID that it names (None but of DICOM).

    of_class: the class that all of the file is of, wherever it is not 0; None: its values or segments say it.
    Raises Rejection for what is no mask, does not say how it lies, or holds a class that is not listed, and
    FmctError where the machine fails.
    """
    if format_of(path) is not None:
        volume = open_volume(path)
        if volume.affine is None:
            raise Rejection(
                Reason.MISSING_GEOMETRY, "the file does not state its orientation; convert it to NIfTI"
            )
        return array_planes(_bits(volume, classes, of_class), volume.affine), None
    if not is_dicom(path):
        raise Rejection(
            Reason.UNSUPPORTED_FORMAT, "neither DICOM nor a name of NIfTI, NRRD or MetaImage; convert it"
        )
    return read_segmentation(path, classes, of_class)


def _bits(volume: VolumeFile, classes: Classes, of_class: int | None) -> NDArray[np.int16]:
    bits = np.zeros(volume.shape, np.int16)
    for number in range(volume.shape[0]):
        values = volume.read(number)
        if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
            raise Rejection(Reason.INVALID_VALUE, "values that are not integers; threshold them first")
        for value in np.unique(values):
            if value:
                bits[number][values == value] |= 1 << (
                    class_of(str(int(value)), classes, "value") if of_class is None else of_class
                )
    return bits


def class_of(said: str, classes: Classes, what: str) -> int:
    """The class of a value; raises Rejection(unlisted_class), and repeats no text, only a number."""
    if said not in classes.values:
        shown = f" {said}" if said.lstrip("-").isdecimal() else ""
        raise Rejection(Reason.UNLISTED_CLASS, f"{what}{shown} belongs to no class; give it with --class")
    return classes.values[said]
