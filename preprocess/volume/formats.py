"""The format of a volume file, by its name, and its reader."""

from pathlib import Path

from preprocess.reasons import Reason, Rejection
from preprocess.volume.itk import open_metaimage, open_nrrd
from preprocess.volume.nifti import open_nifti
from preprocess.volume.npy import open_npy
from preprocess.volume.volume_file import VolumeFile

_READERS = {"nifti": open_nifti, "nrrd": open_nrrd, "metaimage": open_metaimage, "npy": open_npy}
_ENDINGS = {
    **{".nii": "nifti", ".nii.gz": "nifti"},
    **{".nrrd": "nrrd", ".nhdr": "nrrd", ".mha": "metaimage", ".mhd": "metaimage", ".npy": "npy"},
}
FORMATS = tuple(_READERS)
"""Format names used in place of a transfer syntax in catalogs and in a volume's facts."""


def format_of(path: Path) -> str | None:
    """The format by a file's suffix, ignoring case; None if it is not supported."""
    name = path.name.lower()
    return next((format for ending, format in _ENDINGS.items() if name.endswith(ending)), None)


def open_volume(path: Path) -> VolumeFile:
    """Open the volume file at `path`.

    Raises Rejection if it is not of `FORMATS`, damaged or inconsistent, and FmctError if the machine fails.
    """
    format = format_of(path)
    if format is None:
        endings = ", ".join(_ENDINGS)
        raise Rejection(Reason.UNSUPPORTED_FORMAT, f"its name has none of the suffixes {endings}; convert it")
    return _READERS[format](path)
