"""Detection of archives and their kind by content, and of archive parts by name."""

import os
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal

from preprocess.dicom import iso9660, split

START_BYTES = 512
"""Bytes that determine the kind of a file: a tar header (POSIX.1 pax), the longest."""
_OTHERS = (
    *(b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\xfd7zXZ\0", b"BZh", b"\x28\xb5\x2f\xfd"),
    *(b"MSCF\0\0\0\0", b"\x1f\x9d", b"LZIP\1", b"\x04\x22\x4d\x18", b"xar!", b"ISc("),
)
"""Magic bytes of 7z, RAR, xz, bzip2, zstd, cabinets, compress, lzip, LZ4, xar and InstallShield."""
ArchiveKind = Literal["zip", "tar", "gzip", "iso", "disc", "part", "other"]


def archive_kind(start: bytes) -> ArchiveKind | None:
    """The kind of an archive that starts with these `START_BYTES` bytes; None for other files."""
    if start[128:132] == b"DICM":
        return None
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK00PK\x03\x04")):
        return "zip"
    if start.startswith(b"\x1f\x8b"):
        return "gzip"
    if start.startswith(b"PK\x07\x08"):
        return "part"
    if start.startswith(_OTHERS) or (start[2:5] == b"-lh" and start[6:7] == b"-"):
        return "other"
    if start.startswith(iso9660.RAW_SECTOR):
        return "disc"
    with suppress(tarfile.HeaderError):
        tarfile.TarInfo.frombuf(start, tarfile.ENCODING, "surrogateescape")
        return "tar"
    return None


def file_kind(file: BinaryIO) -> ArchiveKind | None:
    """The kind of an archive on disk; None for other files. More is read only if it is not DICOM."""
    file.seek(0)
    start = file.read(START_BYTES)
    kind = archive_kind(start)
    if start[128:132] == b"DICM":
        return None
    if kind == "part" and split.is_joined(file):
        return "zip"
    if split.leader_of(Path(os.fsdecode(file.name))):
        return "part"
    if kind or start[:1] in (b"\x02", b"\x08"):
        return kind
    if start[:2] == b"MZ" and zipfile.is_zipfile(file):
        return "zip"  # self-extracting
    if iso9660.is_image(file):
        return "iso"
    return "disc" if iso9660.is_udf(file) else "part" if split.ends_split_zip(file) else None
