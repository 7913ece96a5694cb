"""Reading the values and affine of a NIfTI file, with memory bounded by the file's bytes."""

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from preprocess.dicom.geometry import LARGEST_MATRIX, MAX_PIXELS
from preprocess.dicom.inflate import is_bomb
from preprocess.reasons import Reason, Rejection
from preprocess.volume.nifti_geometry import affine_of
from preprocess.volume.volume_file import VolumeFile
from shards.errors import raise_refusal

_GZIP = b"\x1f\x8b"
"""The magic bytes of a gzip file (RFC 1952 section 2.3.1), checked regardless of its name."""
_HEADER_BYTES = 540
"""Size of the NIfTI-2 header, the longer one."""
_MAX_EXTENSIONS = 2**24
"""Bytes between header and values."""
_PIECE = 2**20


def open_nifti(path: Path) -> VolumeFile:
    """The volume of a NIfTI file (.nii, .nii.gz); the header is read now, the values on request.

    Its third index counts the slices. Raises Rejection if it is not a NIfTI file, is larger than a scan can
    be or than its bytes allow, or has no orientation in the patient or contradictory ones
    (`preprocess.volume.nifti_geometry`).
    """
    with _reading(path, Reason.BROKEN_HEADER), _opened(path) as file:
        kind, header, _ = _header(path, file)
        shape = header.get_data_shape()
        affine = affine_of(header)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise Rejection(
            Reason.INVALID_GEOMETRY, f"dim: an array of {shape}; expected one volume of three axes"
        )
    values: list[Any] = []

    def read(index: int) -> np.ndarray:
        with _reading(path, Reason.TRUNCATED_PIXEL_DATA):
            if not values:
                values.append(_values(path, kind))
            one = np.asarray(values[0][(slice(None), slice(None), index, *[0] * (values[0].ndim - 3))])
        return one.T

    columns, rows, slices = shape
    return VolumeFile((slices, rows, columns), affine[:, [2, 1, 0, 3]], read)


@contextmanager
def _reading(path: Path, reason: Reason) -> Iterator[None]:
    """Separates failures caused by a file's bytes from those of the machine."""
    try:
        yield
    except FileNotFoundError:
        raise Rejection(Reason.MISSING_FILE, "no such file") from None
    except (
        *(ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, ValueError, OverflowError),
        *(KeyError, zlib.error),  # nibabel's for a code that it does not know
    ) as error:
        raise_refusal(error, path)
        raise Rejection(reason, f"not a readable NIfTI file ({type(error).__name__})") from None


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_GZIP)) == _GZIP


def _opened(path: Path) -> Any:
    return gzip.open(path) if _is_packed(path) else path.open("rb")


def _header(path: Path, file: Any) -> tuple[Any, Any, int]:
    """Image class, header, and total bytes that it requires; the file position is after `_HEADER_BYTES`."""
    start = file.read(_HEADER_BYTES)
    kind = nibabel.Nifti2Image if start[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nibabel.Nifti1Image
    header: Any = kind.header_class(start[: kind.header_class.sizeof_hdr], check=False)
    shape, offset = header.get_data_shape(), int(header["vox_offset"])
    needed = offset + math.prod(shape) * header.get_data_dtype().itemsize
    size = path.stat().st_size
    if offset < kind.header_class.single_vox_offset:
        raise Rejection(Reason.BROKEN_HEADER, f"vox_offset: {offset}, within the header")
    if (
        max(shape, default=0) > LARGEST_MATRIX
        or math.prod(shape) > MAX_PIXELS
        or offset > _MAX_EXTENSIONS
        or (is_bomb(needed, size) if isinstance(file, gzip.GzipFile) else needed > size)
    ):
        raise Rejection(
            Reason.TRUNCATED_PIXEL_DATA,
            f"{size} bytes cannot be the scan of {shape} voxels that its header declares",
        )
    return kind, header, needed


def _values(path: Path, kind: Any) -> Any:
    """The values with the header's slope and intercept; the bytes are in memory with a checked checksum."""
    with _opened(path) as file:
        _, _, needed = _header(path, file)
    with path.open("rb") as file:
        data = _unpacked(file, needed, path.stat().st_size) if _is_packed(path) else file.read(needed)
    if len(data) < needed:
        raise EOFError
    with _reading(path, Reason.BROKEN_HEADER):
        return kind.from_bytes(data).dataobj


def _unpacked(file: BinaryIO, needed: int, size: int) -> bytes:
    """The first `needed` bytes of a gzip file of `size` bytes, whose checksums are verified to the last one.

    It may have several members (RFC 1952 section 2.2); other bytes after them are ignored, as by gzip. Raises
    zlib.error or EOFError for damage.
    """
    pieces: list[bytes] = []
    unpacked, rest = 0, file.read(_PIECE)
    while rest.startswith(_GZIP):
        member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        while not member.eof:
            if not (rest := rest or file.read(_PIECE)):
                raise EOFError
            piece = member.decompress(rest, _PIECE)
            rest = member.unconsumed_tail
            pieces.append(piece[: max(needed - unpacked, 0)])
            unpacked += len(piece)
            if is_bomb(unpacked, size):
                raise EOFError
        rest = member.unused_data
        if len(rest) < len(_GZIP):
            rest += file.read(_PIECE)
    return b"".join(pieces)
