"""The slices of a volume's file as a catalog's images, and as HU: to everything else a multi-frame object."""

import hashlib
from dataclasses import replace

import numpy as np

from preprocess.dicom.catalog import Instance
from preprocess.dicom.decode import Slice
from preprocess.dicom.sources import Source
from preprocess.reasons import Reason, Rejection
from preprocess.volume.formats import FORMATS, open_volume
from preprocess.volume.hounsfield import require_defined, to_hu
from preprocess.volume.places import stack_of
from preprocess.volume.volume_file import VolumeFile


def is_volume_file(instance: Instance) -> bool:
    """Is the image a slice of a file that holds one volume, rather than DICOM?"""
    return instance.transfer_syntax in FORMATS


def as_instances(volume: VolumeFile, affine: np.ndarray, facts: Instance) -> list[Instance]:
    """The slices as a catalog holds frames, in the file's order.

    facts: what they share, and the file does not say; affine: as `VolumeFile.affine`. Raises Rejection where
    that does not place them as slices of a patient.
    """
    slices = stack_of(affine, volume.shape)
    shared = replace(
        facts,
        frames=volume.shape[0],
        samples=1,
        rows=slices.matrix[0],
        columns=slices.matrix[1],
        orientation=(*slices.column_step.tolist(), *slices.row_step.tolist()),
        pixel_spacing=slices.spacing,
    )
    return [
        replace(shared, frame=index, instance_number=index, position=tuple(position))
        for index, position in enumerate(slices.positions.tolist())
    ]


class VolumeDecoder:
    """Decodes slices of volumes' files as `preprocess.dicom.decode.Decoder` does images of DICOM."""

    def __init__(self) -> None:
        self._source: Source | None = None
        self._volume: VolumeFile | Rejection | None = None

    def __enter__(self) -> "VolumeDecoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._source = self._volume = None

    def decode(self, instance: Instance) -> Slice:
        """One slice in HU, and the SHA-256 of that.

        Raises Rejection for values that are damaged or no HU, FmctError where the file cannot be read at all.
        """
        if instance.source != self._source:
            self._source, self._volume = instance.source, None  # the last one's values are let go first
            self._volume = _opened(instance)
        if self._volume is None or isinstance(self._volume, Rejection):
            raise self._volume or AssertionError
        hu = to_hu(self._volume.read(instance.frame))
        return Slice(hu, hashlib.sha256(hu.tobytes()).digest())


def _opened(instance: Instance) -> VolumeFile | Rejection:
    """The file, or why none of its slices is used: one that is damaged is no scan that lacks slices."""
    try:
        volume = open_volume(instance.path)
        if volume.shape != (instance.frames, instance.rows, instance.columns):
            return Rejection(Reason.INCONSISTENT_GEOMETRY, "the file's matrix is not the catalog's")
        if volume.read(0).dtype.kind == "f":
            require_defined(map(volume.read, range(volume.shape[0])))
        else:
            volume.read(volume.shape[0] - 1)
    except Rejection as rejection:
        return rejection
    return volume
