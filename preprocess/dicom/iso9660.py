"""The files of an ISO 9660 image, such as a copied CD: each is one contiguous extent (ECMA-119)."""

import io
from collections.abc import Iterator
from typing import BinaryIO

_SECTOR = 2048
RAW_SECTOR = b"\0" + b"\xff" * 10 + b"\0"
"""Start of a sector of 2352 bytes (ECMA-130 section 14), in a raw copy of a CD with error correction."""
_FIRST_DESCRIPTOR = 16
"""Sector of the first volume descriptor (section 7.2.1); earlier sectors are not part of the file system."""
_MAX_DESCRIPTORS = 64
_DIRECTORY, _GOES_ON = 0x02, 0x80
"""File flags (section 10.1.6): a directory, and an extent that is not the file's last."""
_MAX_DIRECTORY = 2**26
"""Bytes: a million files."""


def is_image(file: BinaryIO) -> bool:
    """Whether the file has a volume descriptor (section 9.1) at the position of the first one."""
    file.seek(_FIRST_DESCRIPTOR * _SECTOR + 1)
    return file.read(5) == b"CD001"


def is_udf(file: BinaryIO) -> bool:
    """Whether it starts like a disc with UDF only (ECMA-167 part 2 section 9.1)."""
    file.seek(_FIRST_DESCRIPTOR * _SECTOR + 1)
    return file.read(5) == b"BEA01"


def files(file: BinaryIO) -> tuple[list[tuple[str, int, int]], int]:
    """Path, offset and bytes of each file, sorted by offset; and the number of damaged directories.

    Raises ValueError if there is no root directory.
    """
    size = file.seek(0, io.SEEK_END)
    entries: list[tuple[str, int, int]] = []
    entered, lost = set[int](), 0
    waiting = [("", *_root(file))]
    while waiting:
        folder, start, length = waiting.pop()
        if start in entered:
            continue
        entered.add(start)
        if length > _MAX_DIRECTORY or start + length > size:
            lost += 1
            continue
        for name, flags, offset, count in _records(_read(file, start, length)):
            if flags & _DIRECTORY:
                waiting.append((f"{folder}{name}/", offset, count))
            elif flags & _GOES_ON:
                raise ValueError("a file of several extents")
            else:
                entries.append((folder + name, offset, count))
    return sorted(entries, key=lambda one: one[1]), lost


def _root(file: BinaryIO) -> tuple[int, int]:
    """Offset and bytes of the root directory of the primary volume (section 9.4)."""
    for sector in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + _MAX_DESCRIPTORS):
        descriptor = _read(file, sector * _SECTOR, _SECTOR)
        if descriptor[1:6] != b"CD001":
            break
        if descriptor[0] == 1 and int.from_bytes(descriptor[128:130], "little") == _SECTOR:
            return _extent(descriptor[156:190])
    raise ValueError("no primary volume of blocks of 2048 bytes")


def _records(directory: bytes) -> Iterator[tuple[str, int, int, int]]:
    """Name, flags, offset and bytes of a directory's records (section 10.1), except itself and its parent."""
    at = 0
    while at < len(directory):
        length = directory[at]
        if length == 0:  # records do not cross sector ends
            at += _SECTOR - at % _SECTOR
            continue
        record = directory[at : at + length]
        at += length
        if len(record) < 34 or 33 + record[32] > len(record):
            raise ValueError("a damaged record of a directory")
        name = record[33 : 33 + record[32]]
        if name not in (b"\0", b"\1"):
            yield name.decode("latin-1").partition(";")[0].rstrip("."), record[25], *_extent(record)


def _extent(record: bytes) -> tuple[int, int]:
    skipped = record[1]  # sectors of an extended attribute record
    start = int.from_bytes(record[2:6], "little") + skipped
    return start * _SECTOR, int.from_bytes(record[10:14], "little")


def _read(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    data = file.read(count)
    if len(data) < count:
        raise ValueError("the image ends early")
    return data
