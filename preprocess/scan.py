"""Scanning an export: every file of a tree, headers only, into the catalog."""

import logging
import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from preprocess.catalog import INSTANCE_TABLE, series_table, write_catalog, write_private_parquet
from preprocess.header import read_header
from preprocess.reasons import Reason, Rejection
from preprocess.sources import HEADER_BUFFER, START_BYTES, Source, archive_kind, archive_members, file_source
from shards.errors import FmctError

log = logging.getLogger(__name__)

BATCH_FILES = 256
"""Files a worker reads at a time."""

REJECTED_TABLE = pa.schema([("path", pa.binary()), ("reason", pa.string()), ("detail", pa.string())])


@dataclass(frozen=True)
class ScanSummary:
    """What a scan found."""

    files: int
    """Regular files met."""
    instances: int
    """DICOM objects in the catalog."""
    series: int
    ct_series: int
    skipped: int
    """Files that are not DICOM objects (and DICOMDIR indexes, whose word is not taken)."""
    rejected: dict[Reason, int]
    """Broken files, in the rejected table, counted by reason."""
    repeated_instances: int
    """Instances whose SOP Instance UID another instance of the catalog bears already."""


@dataclass
class _Found:
    """The headers of one batch of files."""

    instances: pa.Table
    rejected: list[tuple[bytes, Reason, str]]
    skipped: int


def rejected_path(catalog: Path) -> Path:
    """The table of broken files beside a catalog: path, reason, detail."""
    return catalog.with_name(f"{catalog.stem}.rejected.parquet")


def scan(
    export: Path, catalog: Path, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> ScanSummary:
    """Read the header of every file under `export` and write `catalog` (see preprocess.catalog).

    `workers` processes read batches of files; the catalog does not depend on their number.
    `progress` is called with (files read, files found so far). Broken files are listed in
    `rejected_path(catalog)`. Both files are replaced only when the scan is complete.

    Raises FmctError where the folder is missing or empty, or holds no DICOM or no CT.
    """
    if not export.is_dir():
        raise FmctError(f"{export}: no such folder; give the folder that holds the DICOM export")
    rejected: list[tuple[bytes, Reason, str]] = []
    tables = [INSTANCE_TABLE.empty_table()]
    skipped = done = 0
    for found, size, listed in _read_batches(_files(export.absolute(), rejected), workers):
        tables.append(found.instances)
        rejected += found.rejected
        skipped += found.skipped
        done += size
        if progress:
            progress(done, listed)
    instances = pa.concat_tables(tables)
    _require_ct(export, instances, rejected, skipped)
    series = series_table(instances)
    objects = instances.filter(pc.equal(instances["frame"], 0))
    columns = list(zip(*sorted(rejected), strict=True)) or [(), (), ()]
    write_private_parquet(pa.table(list(map(list, columns)), schema=REJECTED_TABLE), rejected_path(catalog))
    write_catalog(catalog, series)
    return ScanSummary(
        files=done,
        instances=len(objects),
        series=len(series),
        ct_series=pc.sum(pc.equal(series["modality"], "CT")).as_py(),
        skipped=skipped,
        rejected=dict(sorted(Counter(reason for _, reason, _ in rejected).items())),
        repeated_instances=len(objects) - len(pc.unique(objects["sop_uid"])),
    )


def _files(folder: Path, rejected: list[tuple[bytes, Reason, str]]) -> Iterator[Path]:
    """The regular files of a tree, one folder in memory at a time; linked folders are not entered."""

    def unlisted(error: OSError) -> None:
        rejected.append((os.fsencode(error.filename), Reason.UNREADABLE_FILE, os.strerror(error.errno or 0)))

    for parent, folders, names in os.walk(folder, onerror=unlisted):
        linked = sum(os.path.islink(os.path.join(parent, name)) for name in folders)
        if linked:
            log.warning("%d linked folders are not entered: scan their targets on their own", linked)
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            try:
                regular = stat.S_ISREG(path.stat().st_mode)
            except OSError as error:
                rejected.append((os.fsencode(path), Reason.UNREADABLE_FILE, os.strerror(error.errno or 0)))
                continue
            if regular:
                yield path


def _batches(paths: Iterator[Path]) -> Iterator[list[Path]]:
    batch: list[Path] = []
    for path in paths:
        batch.append(path)
        if len(batch) == BATCH_FILES:
            yield batch
            batch = []
    if batch:
        yield batch


def _read_batches(paths: Iterator[Path], workers: int) -> Iterator[tuple[_Found, int, int]]:
    """Yield each batch's headers, its number of files, and the files listed so far."""
    listed = 0
    if workers == 1:
        for batch in _batches(paths):
            listed += len(batch)
            yield _read_batch(batch), len(batch), listed
        return
    pending: deque[tuple[Future[_Found], int]] = deque()
    # Spawned, not forked: the caller may hold threads (a progress bar, BLAS).
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for batch in _batches(paths):
            listed += len(batch)
            pending.append((pool.submit(_read_batch, batch), len(batch)))
            if len(pending) > 4 * workers:
                future, size = pending.popleft()
                yield future.result(), size, listed
        while pending:
            future, size = pending.popleft()
            yield future.result(), size, listed


def _read_batch(paths: list[Path]) -> _Found:
    rows: list[dict[str, Any]] = []
    rejected: list[tuple[bytes, Reason, str]] = []
    skipped = 0
    for path in paths:
        try:
            for source, file in _objects(path):
                try:
                    if isinstance(file, Rejection):
                        raise file
                    found = read_header(file, source)
                except Rejection as rejection:
                    where = os.fsencode(path / source.member)
                    rejected.append((where, rejection.reason, rejection.detail))
                    continue
                rows += found
                skipped += not found
        except OSError as error:
            rejected.append((os.fsencode(path), Reason.UNREADABLE_FILE, os.strerror(error.errno or 0)))
    return _Found(pa.Table.from_pylist(rows, schema=INSTANCE_TABLE), rejected, skipped)


def _objects(path: Path) -> Iterator[tuple[Source, BinaryIO | Rejection]]:
    """The file, or the members of the archive that it is."""
    with path.open("rb", HEADER_BUFFER) as file:
        status = os.fstat(file.fileno())
        kind = archive_kind(file.read(START_BYTES))
        if kind:
            yield from archive_members(path, kind, status)
        else:
            file.seek(0)
            yield file_source(path, status), file


def _require_ct(
    export: Path, instances: pa.Table, rejected: list[tuple[bytes, Reason, str]], skipped: int
) -> None:
    """Raise FmctError, saying what was found instead, unless there is some CT."""
    if not len(instances):
        if not skipped and not rejected:
            raise FmctError(f"{export}: the folder is empty; give the folder that holds the DICOM export")
        broken = Counter(str(reason) for _, reason, _ in rejected)
        found = [f"{skipped} other files"] * bool(skipped) + [f"{n} {name}" for name, n in broken.items()]
        raise FmctError(f"{export}: no readable DICOM (found {', '.join(found)}); give the export's folder")
    modalities = Counter(instances["modality"].to_pylist())
    if "CT" not in modalities:
        found = [f"{n} of {name or 'no modality'}" for name, n in modalities.most_common()]
        raise FmctError(f"{export}: no CT among the DICOM files (found {', '.join(found)}); export CT series")
