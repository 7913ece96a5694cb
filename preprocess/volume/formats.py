"""Which format a file is in, by its name, and what reads it."""

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
"""What stands in a catalog, and among a volume's facts, in the place of a transfer syntax."""


def format_of(path: Path) -> str | None:
    """The format by a file's name, in any case; None if it is not supported."""
    name = path.name.lower()
    return next((format for ending, format in _ENDINGS.items() if name.endswith(ending)), None)


def open_volume(path: Path) -> VolumeFile:
    """What the file at `path` holds.

    Raises Rejection for what is none of `FORMATS`, is damaged, or contradicts itself, and FmctError where the
    machine fails.
    """
    format = format_of(path)
    if format is None:
        endings = ", ".join(_ENDINGS)
        raise Rejection(Reason.UNSUPPORTED_FORMAT, f"the name has none of the endings {endings}; convert it")
    return _READERS[format](path)
