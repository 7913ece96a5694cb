"""NumPy's .npy: an array of HU (slice, row, column), with its affine given in the table."""

from pathlib import Path

import numpy as np

from preprocess.dicom.geometry import LARGEST_MATRIX, MAX_PIXELS
from preprocess.reasons import Reason, Rejection
from preprocess.volume.volume_file import VolumeFile
from shards.errors import raise_refusal


def open_npy(path: Path) -> VolumeFile:
    """The array in the file, memory-mapped; Rejection if it is not an array or holds Python objects."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise Rejection(Reason.MISSING_FILE, "no such file") from None
    except (OSError, ValueError, EOFError, SyntaxError, OverflowError) as error:
        raise_refusal(error, path)
        raise Rejection(
            Reason.BROKEN_HEADER, f"not a .npy array of the declared size ({type(error).__name__})"
        ) from None
    if not isinstance(values, np.ndarray) or values.ndim != 3 or min(values.shape) < 1:
        raise Rejection(Reason.INVALID_GEOMETRY, "not one array of three axes: slices, rows, columns")
    if max(values.shape) > LARGEST_MATRIX or values.size > MAX_PIXELS:
        raise Rejection(Reason.INVALID_GEOMETRY, f"an array of {values.shape}: larger than any scan")
    slices, rows, columns = values.shape
    return VolumeFile((slices, rows, columns), None, lambda index: np.asarray(values[index]))
