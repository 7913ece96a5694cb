"""Archives in parts: a split zip (.z01, .z02, ..., .zip), or any archive cut in pieces (.zip.001, ...).

The parts in one folder are read in place as one file. In a split zip (APPNOTE 8.5) a position is the number
of a part and an offset in it; both are converted to offsets in the joined parts.
"""

import io
import os
import re
import struct
import zipfile
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from preprocess.reasons import Reason, Rejection

_TYPES = r"\.(?:zip|tar|tgz|gz|7z|rar|iso)"
_NUMBER = r"(?P<mark>\.?(?:part[-_.]?)?)(?P<number>\d{2,3}|[a-d][a-z])"
_PIECE = re.compile(rf"(?P<whole>.+{_TYPES}){_NUMBER}", re.IGNORECASE)
"""Names of pieces by 7-Zip and split(1): "x.zip.001", "x.tar.gz.aa", "x.tar.part-00"."""
_DISK = re.compile(r"(?P<whole>.+)\.(?P<z>z)\d{2,3}", re.IGNORECASE)
"""Names of all parts of a split zip except the last, which ends in ".zip"."""
_ENDING = re.compile(rf"(?:\.z\d{{2,3}}|{_TYPES}{_NUMBER})$")
_LONGEST_ENDING = len(".tar.part-000")
TRUNCATED = "of an archive in parts: is the last one missing?"
UNNAMED = "a part of a split zip: name the parts NAME.z01, NAME.z02, ..., NAME.zip"
LOOK_AHEAD = 3
"""Numbers tried after a missing one: parts after a gap show that some are missing."""
MAX_PARTS, MAX_NAMED = 9999, 5
"""Of an archive, and of those that a reason names."""
_END = struct.Struct("<4sHHHHLLH")
"""End of central directory (APPNOTE 4.3.16)."""
_LOCATOR = struct.Struct("<4sLQL")
"""Zip64 end of central directory locator (APPNOTE 4.3.15)."""
_UNSTATED = 0xFFFF


class Status(NamedTuple):
    """The common status of all parts, in place of os.stat's of one file."""

    st_size: int
    st_mtime_ns: int
    """Not a time, but a number that changes with the time of any part."""
    st_mode: int


class Parts(NamedTuple):
    """The parts of one archive in a folder."""

    files: tuple[Path, ...]
    """In order."""
    missing: tuple[str, ...]
    """Names of missing ones between them."""

    def status(self) -> Status:
        """Raises OSError if one cannot be reached."""
        statuses = [os.stat(path) for path in self.files]
        times = sum(status.st_mtime_ns for status in statuses) % 2**62
        return Status(sum(status.st_size for status in statuses), times, statuses[0].st_mode)


def may_be_part(name: str) -> bool:
    """Whether a file of this name may be part of an archive; fast, because nearly all names are not."""
    end = name[-_LONGEST_ENDING:].lower()
    if not (".z" in end or ".t" in end or ".g" in end or ".7z" in end or ".r" in end or ".i" in end):
        return False
    return end.endswith(".zip") or bool(_ENDING.search(end))


def status(path: Path) -> os.stat_result | Status:
    """The status of a file; of all parts for their leader; for other parts, with a time that depends on all.

    So a finding becomes invalid when another part changes or is added. Raises OSError.
    """
    if not may_be_part(path.name):
        return os.stat(path)
    leader = leader_of(path)
    parts = parts_of(leader or path)
    if not leader:
        return parts.status() if parts else os.stat(path)
    own = os.stat(path)
    others = parts.status() if parts and leader.exists() else Status(0, 0, 0)
    times = own.st_mtime_ns + others.st_mtime_ns + others.st_size
    return Status(own.st_size, times % 2**62, own.st_mode)


def parts_of(path: Path) -> Parts | None:
    """The parts of the archive that this file leads, by name; None for a whole archive.

    The leader is the last part of a split zip, or the first piece of another archive.
    """
    name = path.name
    if name[-4:].lower() == ".zip":
        disks = _numbered(path, lambda number: [f"{name[:-4]}.{z}{number:02d}" for z in "zZ"])
        return Parts((*disks.files, path), disks.missing) if disks.files else None
    piece = _PIECE.fullmatch(name)
    if not piece or _first(path, piece) != path:
        return None
    begins, width = _index(piece["number"]) - 1, len(piece["number"])
    return _numbered(
        path,
        lambda number: [
            piece["whole"] + piece["mark"] + _written(begins + number, width, piece["number"].isdigit())
        ],
    )


def leader_of(path: Path) -> Path | None:
    """The leader of the archive that this file is another part of; it may be missing.

    None for files that are not parts, and for the leader itself.
    """
    disk = _DISK.fullmatch(path.name)
    if disk:
        endings = (".ZIP", ".zip") if disk["z"] == "Z" else (".zip", ".ZIP")
        leaders = [path.with_name(disk["whole"] + ending) for ending in endings]
        return next(filter(Path.exists, leaders), leaders[0])
    piece = _PIECE.fullmatch(path.name)
    leader = _first(path, piece) if piece else path
    return None if leader == path else leader


def _first(path: Path, piece: re.Match[str]) -> Path:
    """The first piece of an archive; counted from 0 or from 1."""
    if _index(piece["number"]) == 0:
        return path
    digits, width = piece["number"].isdigit(), len(piece["number"])
    names = [piece["whole"] + piece["mark"] + _written(number, width, digits) for number in (0, 1)]
    if not digits:
        return path.with_name(names[0])
    return next(filter(Path.exists, map(path.with_name, names)), path.with_name(names[1]))


def _index(number: str) -> int:
    if number.isdigit():
        return int(number)
    first, second = (ord(letter) - ord("a") for letter in number.lower())
    return 26 * first + second


def _written(number: int, width: int, digits: bool) -> str:
    return f"{number:0{width}d}" if digits else chr(ord("a") + number // 26) + chr(ord("a") + number % 26)


def _numbered(path: Path, names: Callable[[int], list[str]]) -> Parts:
    """The parts from number 1 beside `path`."""
    files: list[Path] = []
    missing: list[str] = []
    absent: list[str] = []
    number = 1
    while len(absent) < LOOK_AHEAD:
        candidates = names(number)
        next_part = next(filter(Path.exists, map(path.with_name, candidates)), None)
        if next_part:
            files.append(next_part)
            missing += absent
            absent = []
        else:
            absent.append(candidates[0])
        number += 1
    return Parts(tuple(files), tuple(missing))


def joined(path: Path) -> BinaryIO | None:
    """The whole archive that this file leads; None for an archive in one file.

    Raises OSError, and Rejection(damaged_archive) that names the missing parts.
    """
    if not may_be_part(path.name):
        return None
    parts = parts_of(path)
    if path.name[-4:].lower() != ".zip":
        return _opened(parts, of_disks=False) if parts else None
    disks = _disks(path)
    if not disks:
        return None
    if disks > MAX_PARTS:
        raise Rejection(Reason.DAMAGED_ARCHIVE, f"a zip in {disks + 1} parts")
    expected = [f"{path.name[:-4]}.z{number:02d}" for number in range(1, disks + 1)]
    there = {part.name.lower() for part in parts.files} if parts else {path.name.lower()}
    missing = tuple(name for name in expected if name.lower() not in there)
    files = parts.files if parts else (path,)
    return _opened(Parts((*files[:disks], path), missing), of_disks=True)


def _opened(parts: Parts, of_disks: bool) -> BinaryIO:
    if parts.missing:
        raise Rejection(Reason.DAMAGED_ARCHIVE, missing(*parts.missing))
    return cast(BinaryIO, io.BufferedReader(Joined(parts, of_disks), 8192))


def missing(*names: str) -> str:
    """The detail for missing parts: only their suffixes, because a name may contain a patient's."""
    endings = ", ".join(Path(name).suffix for name in names[:MAX_NAMED])
    if len(names) > MAX_NAMED:
        endings += f" and {len(names) - MAX_NAMED} more"
    return f"an archive in parts, of which {endings} is missing: put it beside the others and scan again"


def _disks(path: Path) -> int:
    """The number of other parts of a split zip that ends in this file; 0 for a whole one."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(size - _END.size - _LOCATOR.size, 0))
        tail = file.read()
    end = tail[-_END.size :]
    if not end.startswith(b"PK\x05\x06") or len(end) < _END.size:
        return 0
    disk = int(_END.unpack(end)[1])
    locator = tail[: -_END.size]
    if locator.startswith(b"PK\x06\x07") and len(locator) == _LOCATOR.size:
        return max(int(_LOCATOR.unpack(locator)[3]) - 1, 0)
    return 0 if disk == _UNSTATED else disk


def ends_split_zip(file: BinaryIO) -> bool:
    """Whether it ends like the last part of a split zip, with a directory that starts in another part."""
    file.seek(max(file.seek(0, io.SEEK_END) - _END.size, 0))
    end = file.read()
    file.seek(0)
    return end.startswith(b"PK\x05\x06") and end[4:6] not in (b"\0\0", b"\xff\xff")


class Joined(io.RawIOBase):
    """Parts as one file; one part at a time is open."""

    name = ""
    """pydicom reads the name of buffered files."""

    def __init__(self, parts: Parts, of_disks: bool) -> None:
        self.of_disks = of_disks
        """Whether it is a split zip rather than an archive cut in pieces."""
        self.status = parts.status()
        self._files = parts.files
        self.starts = [0]
        for path in parts.files:
            self.starts.append(self.starts[-1] + path.stat().st_size)
        self._size = self.starts.pop()
        self._position = 0
        self._open: tuple[int, BinaryIO] | None = None
        self._patch: tuple[int, bytes] | None = None
        self._patch = self._locator() if of_disks else None

    def _locator(self) -> tuple[int, bytes] | None:
        """Offset of a Zip64 locator, and its content for a single file; `zipfile` rejects any other."""
        start = self._size - _END.size - _LOCATOR.size
        if start < 0:
            return None
        self.seek(start)
        locator = self.read(_LOCATOR.size)
        if not locator or len(locator) < _LOCATOR.size or not locator.startswith(b"PK\x06\x07"):
            return None
        sign, disk, offset, _ = _LOCATOR.unpack(locator)
        if disk >= len(self.starts):
            return None
        return start, _LOCATOR.pack(sign, 0, self.starts[disk] + offset, 1)

    def readable(self) -> bool:
        """As io.RawIOBase; so are the following."""
        return True

    def seekable(self) -> bool:
        """Yes, across all parts."""
        return True

    def tell(self) -> int:
        """In the joined parts."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """In the joined parts."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Reads up to the end of one part."""
        if self._position >= self._size:
            return 0
        number = bisect_right(self.starts, self._position) - 1
        while number + 1 < len(self.starts) and self.starts[number + 1] <= self._position:
            number += 1  # skip empty parts
        end = self.starts[number + 1] if number + 1 < len(self.starts) else self._size
        file = self._part(number)
        file.seek(self._position - self.starts[number])
        data = bytearray(file.read(min(len(buffer), end - self._position)))
        if self._patch:
            start, patch = self._patch
            for place in range(
                max(start, self._position), min(start + len(patch), self._position + len(data))
            ):
                data[place - self._position] = patch[place - start]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _part(self, number: int) -> BinaryIO:
        if self._open and self._open[0] == number:
            return self._open[1]
        if self._open:
            self._open[1].close()
        self._open = number, self._files[number].open("rb")
        return self._open[1]

    def close(self) -> None:
        """Closes the open part too."""
        if self._open:
            self._open[1].close()
        super().close()


def is_joined(file: BinaryIO) -> bool:
    """Whether it was opened by `joined`."""
    return isinstance(getattr(file, "raw", None), Joined)


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """The zip in a file; members of a split zip have offsets in the joined parts."""
    archive = zipfile.ZipFile(file)
    if not (is_joined(file) and cast(Joined, file.raw).of_disks):  # type: ignore[attr-defined]
        return archive
    starts = cast(Joined, file.raw).starts  # type: ignore[attr-defined]
    first = starts[bisect_right(starts, archive.start_dir) - 1]  # start of the directory's part
    for info in archive.infolist():
        if info.volume >= len(starts):
            raise zipfile.BadZipFile("a member in a part that does not exist")
        info.header_offset += starts[info.volume] - first
        with suppress(AttributeError):
            info._end_offset = None  # type: ignore[attr-defined]  # used by newer versions to detect overlaps
    return archive
