"""The location of a DICOM object's bytes: a file, or a member of an archive or CD image.

Members are read in place, never unpacked to disk. Archives are detected by content.
"""

import errno
import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, BinaryIO, cast

from indexed_gzip import IndexedGzipFile

from preprocess.dicom import iso9660, split
from preprocess.dicom.archive_kinds import START_BYTES, ArchiveKind, archive_kind, file_kind
from preprocess.dicom.inflate import INDEX_SPACING, MAX_UNPACKED, RATIO_FROM, Inflated, bomb, is_bomb
from preprocess.reasons import Reason, Rejection

HEADER_BUFFER = 8192
"""Read size for headers. Not the file system's block size: Lustre's is megabytes, whole images."""
OPEN_ARCHIVES = 4
"""Archives that a process keeps open: a series is usually in one."""
DISC = "a disc image, but not ISO 9660 with sectors of 2048 bytes: convert it, or copy the disc's files"
UNPACK = "not zip, tar or tar.gz: unpack or repack it"
Status = os.stat_result | split.Status
"""Of a file, or of all parts of an archive."""


@dataclass(frozen=True, slots=True)
class Source:
    """The location of one object's bytes."""

    path: Path
    """The file on disk."""
    size: int
    """Bytes of the object: of the file, or of the unpacked member."""
    mtime_ns: int
    """Modification time of the file on disk."""
    member: str = ""
    """Name in the archive; empty outside archives."""
    offset: int = 0
    """Offset of the member: of its local header in a zip, of its data in a (decompressed) tar."""
    archive_size: int = 0
    """Bytes of the archive on disk; 0 outside archives."""

    def is_unchanged(self) -> bool:
        """Whether the file on disk is unchanged since the scan. Raises OSError if it cannot be reached."""
        status = split.status(self.path)
        return (status.st_size, status.st_mtime_ns) == (self.archive_size or self.size, self.mtime_ns)


def file_source(path: Path, status: Status) -> Source:
    """The source of a whole file."""
    return Source(path, status.st_size, status.st_mtime_ns)


def status_of(file: BinaryIO, path: Path) -> Status:
    """The status of a file from `open_for_headers`. Raises OSError."""
    return split.status(path) if split.may_be_part(path.name) else os.fstat(file.fileno())


def open_for_headers(path: Path) -> BinaryIO:
    """Open a file without read-ahead or a large buffer.

    For the first file of an archive in parts, opens all parts. Raises Rejection(damaged_archive) if one is
    missing.
    """
    if whole := split.joined(path):
        return whole
    file = path.open("rb", HEADER_BUFFER)
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    return file


@contextmanager
def open_source(source: Source) -> Iterator[BinaryIO]:
    """The object's bytes as a seekable file.

    Raises OSError if the file on disk cannot be read, Rejection(damaged_archive) if the archive lacks the
    member.
    """
    if not source.archive_size:
        with source.path.open("rb") as file:
            yield file
        return
    with split.joined(source.path) or source.path.open("rb") as file:
        kind = file_kind(file)
        place = source.path, source.archive_size, source.mtime_ns
        with _damage_typed():
            if kind in ("tar", "iso"):
                member = _member_file(file, source.offset, source.size)
            elif kind == "zip":
                member = _zip_member(file, *_open_zip(*place), source.offset)
            else:
                member = _member_file(_open_gzip(*place), source.offset, source.size)
        yield member


def _zip_member(
    file: BinaryIO, archive: zipfile.ZipFile, infos: dict[int, zipfile.ZipInfo], offset: int
) -> BinaryIO:
    """The member at `offset`, with its CRC-32 checked: in memory if it is small, else in place."""
    info = infos[offset]
    if info.file_size <= RATIO_FROM:
        return io.BytesIO(archive.read(info))
    file.seek(offset)
    name, extra = struct.unpack("<HH", file.read(30)[26:])  # the last two of the local header
    packed = _member_file(file, offset + 30 + name + extra, info.compress_size)
    if info.compress_type == zipfile.ZIP_DEFLATED:
        packed = _member_file(cast(BinaryIO, Inflated(packed, 0, info.compress_size)), 0, info.file_size)
    size = checksum = 0
    while piece := packed.read(2**20):
        size, checksum = size + len(piece), zlib.crc32(piece, checksum)
    if (size, checksum) != (info.file_size, info.CRC):
        raise zipfile.BadZipFile("size or CRC-32 mismatch")
    packed.seek(0)
    return packed


def archive_members(
    path: Path, kind: ArchiveKind, status: Status
) -> Iterator[tuple[Source, BinaryIO | Rejection]]:
    """Each regular member with a file to read it, valid until the next one, or with its rejection.

    A failure of the whole archive (damage, a bomb, an unsupported kind) comes last, as a Rejection of the
    archive itself. Raises OSError if the archive's file cannot be read.
    """
    try:
        with _damage_typed(), open_for_headers(path) as file:
            if kind == "zip":
                yield from _zip_members(file, path, status)
            elif kind == "tar":
                yield from _tar_members(file, path, status, packed=False)
            elif kind == "gzip":
                yield from _gzip_members(path, status)
            elif kind == "iso":
                yield from _iso_members(file, path, status)
            elif kind == "part":
                _require_whole(path)
            else:
                raise Rejection(Reason.UNSUPPORTED_ARCHIVE, DISC if kind == "disc" else UNPACK)
    except Rejection as rejection:
        if rejection.reason is Reason.DAMAGED_ARCHIVE and split.parts_of(path):
            rejection = Rejection(rejection.reason, f"{rejection.detail} {split.TRUNCATED}")
        yield file_source(path, status), rejection


def _require_whole(part: Path) -> None:
    """Raise Rejection unless the archive that a file is part of is read through its leader."""
    leader = split.leader_of(part)
    if not leader:
        raise Rejection(Reason.UNSUPPORTED_ARCHIVE, split.UNNAMED)
    if not leader.exists():
        raise Rejection(Reason.DAMAGED_ARCHIVE, split.missing(leader.name))
    with open_for_headers(leader) as file:
        kind = file_kind(file)
    if kind in (None, "other", "disc", "part"):
        raise Rejection(Reason.UNSUPPORTED_ARCHIVE, UNPACK)


def _zip_members(file: BinaryIO, path: Path, status: Status) -> Iterator[tuple[Source, BinaryIO | Rejection]]:
    if split.ends_split_zip(file) and not split.is_joined(file):
        raise Rejection(Reason.UNSUPPORTED_ARCHIVE, split.UNNAMED)
    with split.open_zip(file) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            if info.is_dir():
                continue
            place = info.filename, info.header_offset, status.st_size
            source = Source(path, info.file_size, status.st_mtime_ns, *place)
            if info.flag_bits & 1:
                yield source, Rejection(Reason.ENCRYPTED_ARCHIVE, "the member requires a password")
            elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                method = f"compression method {info.compress_type}: unpack or repack it"
                yield source, Rejection(Reason.UNSUPPORTED_ARCHIVE, method)
            elif is_bomb(info.file_size, info.compress_size):
                yield source, bomb(info.file_size, info.compress_size)
            else:
                with ExitStack() as opened:
                    member: BinaryIO | Rejection
                    try:
                        with _damage_typed():
                            member = _readable(opened.enter_context(archive.open(info)))
                    except Rejection as rejection:
                        member = rejection
                    yield source, member


def _gzip_members(path: Path, status: Status) -> Iterator[tuple[Source, BinaryIO | Rejection]]:
    with _indexed_gzip(path) as file:
        kind = archive_kind(file.read(START_BYTES))
        if kind == "tar":
            yield from _tar_members(file, path, status, packed=True)
            return
        if kind:
            raise Rejection(Reason.NESTED_ARCHIVE, f"{kind} in gzip: unpack the outer one")
        size = _gzip_size(path)
        if is_bomb(size, status.st_size):
            raise bomb(size, status.st_size)
        if status.st_size > size + size // 1000 + 1024:  # deflate adds less (RFC 1951 section 3.2.4)
            raise Rejection(Reason.UNSUPPORTED_ARCHIVE, "several gzip streams, or bytes after one: unpack it")
        # A single object; other content is rejected later as not DICOM.
        source = Source(path, size, status.st_mtime_ns, path.name.removesuffix(".gz"), 0, status.st_size)
        yield source, _member_file(file, 0, size)


def _iso_members(file: BinaryIO, path: Path, status: Status) -> Iterator[tuple[Source, BinaryIO | Rejection]]:
    members, lost = iso9660.files(file)
    for name, offset, size in members:
        source = Source(path, size, status.st_mtime_ns, name, offset, status.st_size)
        if offset + size > status.st_size:
            yield source, Rejection(Reason.DAMAGED_ARCHIVE, "the image ends before the file: copy it again")
        else:
            yield source, _readable(_member_file(file, offset, size))
    if lost:
        raise Rejection(
            Reason.DAMAGED_ARCHIVE, f"{lost} folders are beyond the end of the image: copy it again"
        )


def _gzip_size(path: Path) -> int:
    """Unpacked bytes stated at the end of a gzip file (RFC 1952 section 2.3.1): less than 4 GiB."""
    with open_for_headers(path) as file:
        file.seek(-4, io.SEEK_END)
        return int.from_bytes(file.read(), "little")


def _tar_members(
    file: BinaryIO, path: Path, status: Status, packed: bool
) -> Iterator[tuple[Source, BinaryIO | Rejection]]:
    file.seek(0)
    with tarfile.open(fileobj=_TarHeaders(file), mode="r:") as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # otherwise it keeps all members
            end = info.offset_data + info.size
            if packed and is_bomb(end, status.st_size):
                raise bomb(end, status.st_size)  # skipping it would require inflating it
            if not info.isreg():
                continue
            place = info.name, info.offset_data, status.st_size
            source = Source(path, info.size, status.st_mtime_ns, *place)
            if info.size > MAX_UNPACKED or info.issparse():
                yield source, bomb(info.size, status.st_size)
                continue
            yield source, _readable(_member_file(file, source.offset, source.size))
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise Rejection(Reason.DAMAGED_ARCHIVE, f"no member and no end mark at byte {archive.offset}")


def _readable(file: IO[bytes]) -> BinaryIO | Rejection:
    """The member's file, unless it is itself an archive. Raises on damage at its start."""
    kind = archive_kind(file.read(START_BYTES))
    file.seek(0)
    return (
        Rejection(Reason.NESTED_ARCHIVE, f"{kind} in an archive: unpack the outer one")
        if kind
        else cast(BinaryIO, file)
    )


@contextmanager
def _damage_typed() -> Iterator[None]:
    """Convert exceptions of the archive modules on damaged input to Rejection."""
    try:
        yield
    except (Rejection, MemoryError):
        raise
    except Exception as error:
        # System errors are not damage, except that a damaged directory makes zipfile seek before the start
        # (EINVAL), and errors of indexed_gzip have no number.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise Rejection(Reason.DAMAGED_ARCHIVE, type(error).__name__) from None


class _TarHeaders(io.RawIOBase):
    """A tar's bytes for the tarfile module, which must read headers only.

    tarfile trusts the length of a long name or a pax header in the archive, and would read gigabytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= 2**20:
            raise tarfile.ReadError("a header is larger than 1 MiB")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class _Part(io.RawIOBase):
    """A range of an archive's bytes; reading damaged data raises a Rejection."""

    name = ""
    """pydicom reads the name of buffered files."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._position = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = max(min(len(buffer), self._size - self._position), 0)
        with _damage_typed():
            self._file.seek(self._start + self._position)
            data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _member_file(file: BinaryIO, start: int, size: int) -> BinaryIO:
    return io.BufferedReader(_Part(file, start, size), HEADER_BUFFER)


@lru_cache(OPEN_ARCHIVES)
def _open_zip(path: Path, size: int, mtime_ns: int) -> tuple[zipfile.ZipFile, dict[int, zipfile.ZipInfo]]:
    """An archive of this size and time with its members by offset, kept open: its directory is long."""
    whole = split.joined(path)
    archive = split.open_zip(whole) if whole else zipfile.ZipFile(path)
    return archive, {info.header_offset: info for info in archive.infolist()}


@lru_cache(OPEN_ARCHIVES)
def _open_gzip(path: Path, size: int, mtime_ns: int) -> BinaryIO:
    """A gzip file of this size and time, kept open with the index built while reading."""
    return _indexed_gzip(path)


def _indexed_gzip(path: Path) -> BinaryIO:
    whole = split.joined(path)
    place = {"fileobj": whole} if whole else {"filename": path}
    return IndexedGzipFile(**place, spacing=INDEX_SPACING, drop_handles=False)
