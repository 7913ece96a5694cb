"""Findings of a scan, stored so that no file is read twice.

A finding is a row: an image of the catalog, or a rejected object with its reason. It is valid for a file of
its path, size and modification time, in any scan. All findings of a file are in one record: a part written by
a worker, or the published tables (catalog and rejected) together.
"""

import logging
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from preprocess.dicom import split
from preprocess.dicom.archive_kinds import file_kind
from preprocess.dicom.catalog_table import (
    INSTANCE_TABLE,
    SERIES_TABLE,
    PrivateParquet,
    instance_table,
    parquet_columns,
)
from preprocess.dicom.header import read_header
from preprocess.dicom.sources import (
    Source,
    Status,
    archive_members,
    file_source,
    open_for_headers,
    status_of,
)
from preprocess.reasons import Reason, Rejection
from preprocess.scan.already_read import KnownFiles
from preprocess.scan.spill import fingerprints
from shards.errors import SCARCE, FmctError, UnavailableError, raise_refusal, refusal, refusal_kind

log = logging.getLogger(__name__)

PART_ROWS = 4096
"""Rows that a worker buffers before writing: about 4 MB."""

FOUND_TABLE = INSTANCE_TABLE.append(pa.field("reason", pa.string())).append(pa.field("detail", pa.string()))
"""A finding. Images have no reason; other rows have only the place, reason and detail."""
_PLACE = ("path", "member", "offset", "size", "mtime_ns", "archive_size")
REJECTED_TABLE = pa.schema(
    [FOUND_TABLE.field(name) for name in (*_PLACE, "reason", "detail")], metadata=INSTANCE_TABLE.metadata
)
"""Rejected objects with their reasons."""
FILE_COLUMNS = ("path", "size", "mtime_ns", "archive_size", "reason")
"""Columns used by `file_fingerprints`."""


class Record(Protocol):
    """Stored findings."""

    def tables(self, columns: Sequence[str] = tuple(FOUND_TABLE.names)) -> Iterator[pa.Table]:
        """These columns of `FOUND_TABLE`, a few thousand rows at a time."""
        ...


@dataclass(frozen=True)
class Part:
    """The findings written by one call of `read_files`."""

    path: Path

    def tables(self, columns: Sequence[str] = tuple(FOUND_TABLE.names)) -> Iterator[pa.Table]:
        """As `Record.tables`."""
        with pq.ParquetFile(self.path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=columns).select(columns)


@dataclass(frozen=True)
class Published:
    """The findings of the last complete scan."""

    catalog: Path
    rejected: Path

    def tables(self, columns: Sequence[str] = tuple(FOUND_TABLE.names)) -> Iterator[pa.Table]:
        """As `Record.tables`."""
        needed = {name for name in columns if name in INSTANCE_TABLE.names} | {
            "size"
        }  # one of the instances'
        with pq.ParquetFile(self.catalog) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=parquet_columns(needed))
                yield _filled(instance_table(table), columns)
        with pq.ParquetFile(self.rejected) as file:
            for group in range(file.num_row_groups):
                yield _filled(file.read_row_group(group), columns)


def _filled(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """These columns of `FOUND_TABLE`, null if missing in the table."""
    arrays = {
        name: table[name]
        if name in table.column_names
        else pa.nulls(len(table), FOUND_TABLE.field(name).type)
        for name in columns
    }
    return pa.table(arrays, schema=pa.schema([FOUND_TABLE.field(n) for n in columns], FOUND_TABLE.metadata))


def usable(paths: Iterable[Path]) -> list[Part]:
    """The parts that are complete and of this version, in the order of their names."""
    return [Part(path) for path in sorted(paths) if _has_schema(path, FOUND_TABLE)]


def published(catalog: Path, rejected: Path) -> Published | None:
    """The tables of the last complete scan, if they exist and are of this version."""
    if _has_schema(catalog, SERIES_TABLE) and _has_schema(rejected, REJECTED_TABLE):
        return Published(catalog, rejected)
    if catalog.exists():
        log.warning("%s: written by another version; all files are read again", catalog)
    return None


def _has_schema(path: Path, schema: pa.Schema) -> bool:
    try:
        return pq.read_schema(path).equals(schema, check_metadata=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise_refusal(error, path)
        return False


def file_fingerprints(table: pa.Table) -> np.ndarray:
    """Path, size and modification time of each finding's file on disk as `FINGERPRINT`, (n,)."""
    archived = pc.greater(table["archive_size"], 0)
    sizes = pc.if_else(archived, table["archive_size"], table["size"])
    columns = table["path"].to_pylist(), sizes.to_pylist(), table["mtime_ns"].to_pylist()
    return fingerprints(map(_identity, *columns))


def _identity(path: bytes, size: int, mtime_ns: int) -> bytes:
    return b"%b\0%d\0%d" % (path, size, mtime_ns)


@dataclass
class Reading:
    """The result of a batch of files."""

    files: int = 0
    """Number of finished regular files."""
    unchanged: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """Positions in `KnownFiles` of the files that need no reading."""
    archives: list[bytes] = field(default_factory=list)
    """Archives, not read yet."""
    part: Path | None = None
    """The findings in the other files; None if there are none."""


def read_files(part: Path, known: Path, paths: list[bytes], enter_archives: bool) -> Reading:
    """Check files and write the findings in those that are not known to `part`.

    An archive may hold a million objects, so it is only listed unless `enter_archives`.
    """
    reading = Reading()
    with _PartWriter(part) as writer:
        statuses = _regular_files(paths, writer)
        identities = (_identity(path, s.st_size, s.st_mtime_ns) for path, s in statuses.items())
        places = KnownFiles(known).find(fingerprints(identities))
        reading.unchanged = places[places >= 0]
        for path, place in zip(statuses, places, strict=True):
            if place < 0 and not _read_file(Path(os.fsdecode(path)), writer, enter_archives):
                reading.archives.append(path)
    reading.files = len(statuses) - len(reading.archives)
    reading.part = part if writer.written else None
    return reading


def _regular_files(paths: list[bytes], writer: "_PartWriter") -> dict[bytes, Status]:
    files = {}
    for path in paths:
        name = os.fsdecode(path)
        try:
            status = split.status(Path(name)) if split.may_be_part(name) else os.stat(path)
        except OSError as error:
            writer.reject(Source(Path(name), 0, 0), unreadable(error))
            continue
        if stat.S_ISREG(status.st_mode):
            files[path] = status
    return files


def unreadable(error: OSError) -> Rejection:
    """The rejection of a file or folder that the system cannot read.

    Raises UnavailableError if no file can be read now: memory or open files have run out.
    """
    if isinstance(refused := refusal(error), UnavailableError) and error.errno in SCARCE:
        raise refused
    return Rejection(Reason.UNREADABLE_FILE, os.strerror(error.errno or 0))


def _read_file(path: Path, writer: "_PartWriter", enter_archives: bool) -> bool:
    """Write the findings in one file; False for an archive that must not be entered."""
    source = Source(path, 0, 0)
    try:
        try:
            opened = open_for_headers(path)
        except Rejection as rejection:  # a part of the archive is missing
            writer.reject(file_source(path, split.status(path)), rejection)
            return True
        with opened as file:
            status = status_of(file, path)
            source = file_source(path, status)
            kind = file_kind(file)
            if not kind:
                file.seek(0)
                _read_object(source, file, writer)
            elif not enter_archives:
                return False
            else:
                empty = True
                for member, data in archive_members(path, kind, status):
                    _read_object(member, data, writer)
                    empty = False
                if empty and kind != "part":  # a part is read through another file
                    writer.reject(source, Rejection(Reason.NOT_DICOM, "an archive without members"))
    except OSError as error:
        writer.reject(source, unreadable(error))
    return True


def _read_object(source: Source, file: BinaryIO | Rejection, writer: "_PartWriter") -> None:
    try:
        if isinstance(file, Rejection):
            raise file
        rows = read_header(file, source)
        if not rows:
            raise Rejection(Reason.NOT_DICOM, "not a DICOM object")
    except Rejection as rejection:
        writer.reject(source, rejection)
    else:
        writer.add(rows)


class _PartWriter:
    """Writes a part, `PART_ROWS` rows at a time; no file if nothing is added."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = PrivateParquet(path, FOUND_TABLE, PART_ROWS)
        self._rows: list[dict[str, Any]] = []
        self.written = False

    def __enter__(self) -> "_PartWriter":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if not error:
                self._flush()
        except FmctError as failure:
            if self.written:
                self._file.__exit__(FmctError, failure, failure.__traceback__)
            raise
        if self.written:
            self._file.__exit__(kind, error, trace)

    def add(self, rows: list[dict[str, Any]]) -> None:
        self._rows += rows
        if len(self._rows) >= PART_ROWS:
            self._flush()

    def reject(self, source: Source, rejection: Rejection) -> None:
        self.add(rejected_rows([(source, rejection)]))

    def _flush(self) -> None:
        if not self._rows:
            return
        try:
            if not self.written:
                self._file.__enter__()
                self.written = True
            self._file.add(pa.Table.from_pylist(self._rows, schema=FOUND_TABLE))
        except OSError as error:  # not an error of the input file
            raise cannot_write(self._path.parent, error) from None
        self._rows = []


def cannot_write(folder: Path, error: OSError) -> FmctError:
    """The error for a scan folder that cannot be written."""
    why = os.strerror(error.errno or 0)
    return refusal_kind(error)(
        f"{folder}: {why}; fix that and rerun the same command: files already read are kept"
    )


def rejected_rows(rejections: Iterable[tuple[Source, Rejection]]) -> list[dict[str, Any]]:
    """Findings for rejected objects."""
    return [
        {name: getattr(source, name) for name in _PLACE}
        | {"path": os.fsencode(source.path), "member": os.fsencode(source.member)}
        | {"reason": str(rejection.reason), "detail": rejection.detail}
        for source, rejection in rejections
    ]
