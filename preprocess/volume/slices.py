"""The slices of a volume file as images of a catalog, like frames of a multi-frame object, and as HU."""

import hashlib
from dataclasses import replace

import numpy as np

from preprocess.dicom.catalog import Instance
from preprocess.dicom.decode import Slice
from preprocess.dicom.sources import Source
from preprocess.reasons import Reason, Rejection
from preprocess.volume.formats import FORMATS, open_volume
from preprocess.volume.hounsfield import require_defined, to_hu
from preprocess.volume.slice_positions import stack_of
from preprocess.volume.volume_file import VolumeFile


def is_volume_file(instance: Instance) -> bool:
    """Whether the image is a slice of a volume file rather than DICOM."""
    return instance.transfer_syntax in FORMATS


def as_instances(volume: VolumeFile, affine: np.ndarray, facts: Instance) -> list[Instance]:
    """The slices as frames of a catalog, in the file's order.

    facts: common attributes that the file lacks; affine: as `VolumeFile.affine`. Raises Rejection if the
    affine does not place them as slices of a patient.
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
    """Decodes slices of volume files, like `preprocess.dicom.decode.Decoder` for DICOM images."""

    is_outdated = False

    def __init__(self) -> None:
        self._source: Source | None = None
        self._volume: VolumeFile | Rejection | None = None

    def __enter__(self) -> "VolumeDecoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._source = self._volume = None

    def decode(self, instance: Instance, place: np.ndarray | None = None) -> Slice:
        """One slice in HU, and its SHA-256; `place` is not used.

        Raises Rejection for damaged values or values that are not HU, FmctError if the file cannot be read.
        """
        if instance.source != self._source:
            self._source, self._volume = instance.source, None  # frees the previous values first
            self._volume = _opened(instance)
        if self._volume is None or isinstance(self._volume, Rejection):
            raise self._volume or AssertionError
        hu = to_hu(self._volume.read(instance.frame))
        return Slice(hu, hashlib.sha256(hu.tobytes()).digest())


def _opened(instance: Instance) -> VolumeFile | Rejection:
    """The file, or the rejection of all its slices: a damaged file is not a scan with missing slices."""
    try:
        volume = open_volume(instance.path)
        if volume.shape != (instance.frames, instance.rows, instance.columns):
            return Rejection(Reason.INCONSISTENT_GEOMETRY, "the file's matrix differs from the catalog's")
        if volume.read(0).dtype.kind == "f":
            require_defined(map(volume.read, range(volume.shape[0])))
        else:
            volume.read(volume.shape[0] - 1)
    except Rejection as rejection:
        return rejection
    return volume
