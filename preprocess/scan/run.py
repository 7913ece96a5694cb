"""Scanning an export: the headers of all files of a tree into the catalog."""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from preprocess.dicom.sources import Source
from preprocess.reasons import Reason, Rejection
from preprocess.scan.already_read import KnownFiles
from preprocess.scan.findings import (
    FILE_COLUMNS,
    Part,
    Reading,
    Record,
    cannot_write,
    file_fingerprints,
    published,
    read_files,
    unreadable,
    usable,
)
from preprocess.scan.grouping import Findings, Tables, write_tables
from preprocess.scan.spill import FINGERPRINT, find
from preprocess.scan.work_folder import WorkFolder, publish, rejected_path, work_folder
from shards.errors import FmctError
from shards.parallel import InlineExecutor, process_pool

__all__ = ["ScanSummary", "rejected_path", "scan"]

log = logging.getLogger(__name__)

BATCH_FILES = 1024
"""Files per call of a worker: about a second of work, the most that is lost when killed."""


@dataclass(frozen=True)
class ScanSummary(Tables):
    """The results of a scan."""

    files: int
    """Number of regular files; an archive counts as one."""
    unchanged: int
    """Number of files not read, because an earlier scan had read them."""
    seconds: float

    def __str__(self) -> str:
        modalities = ", ".join(f"{n} {name or 'of no modality'}" for name, n in self.modalities.items())
        rejected = ", ".join(f"{n} {reason}" for reason, n in self.rejected.items()) or "none"
        speed = f"{self.files / self.seconds:.0f} files/s" if self.seconds else "at once"
        lines = [
            f"{self.series} series of {self.objects} objects (images: {modalities})",
            f"  files     {self.files} at {speed}; {self.unchanged} of them unchanged and not read again",
            f"  rejected  {rejected}; {self.skipped} are not DICOM",
            f"  repeated  {self.repeated.same_bytes} objects are repeated with equal bytes,"
            f" {self.repeated.other_bytes} with other bytes",
        ]
        several = self.several_patients
        if several.series or several.studies:
            lines.append(
                f"  patients  {several.series} series and {several.studies} studies have several Patient IDs"
            )
        return "\n".join(lines)


def scan(
    export: Path, catalog: Path, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> ScanSummary:
    """Read the header of every file under `export`, and of every member of its zip and tar archives.

    Writes `catalog` (see preprocess.dicom.catalog) and `rejected_path(catalog)`, both only when the scan is
    complete. Files with the size and modification time of an earlier scan, complete or killed, are not read
    again. The tables do not depend on that or on `workers`; memory does not grow with the export.
    progress: called with (files done, files found so far).
    Raises FmctError if the folder is missing, empty, or without DICOM or CT, if another scan writes the same
    catalog, if memory is short or a worker dies.
    """
    if not export.is_dir():
        raise FmctError(f"{export}: no such folder; give the folder that holds the DICOM export")
    start = time.monotonic()
    with work_folder(catalog) as work, ExitStack() as stack:
        executor: Executor = (
            InlineExecutor()
            if workers == 1
            else stack.enter_context(process_pool(workers, read_files.__module__))
        )
        try:
            findings = _read(export.absolute(), work, executor, 1 if workers == 1 else 3 * workers, progress)
            tables = write_tables(findings, work, executor)
        except (BrokenProcessPool, MemoryError) as error:
            died = "a worker process died, possibly out of memory"
            raise FmctError(
                f"{catalog}: {'out of memory' if isinstance(error, MemoryError) else died}; files already "
                "read are kept: rerun the same command, with fewer `--workers` if it recurs"
            ) from None
        except OSError as error:
            raise cannot_write(work.root, error) from None
        if "CT" in tables.modalities:
            publish(work)
    _require_ct(export, tables)
    return ScanSummary(
        **vars(tables),
        files=findings.files,
        unchanged=findings.unchanged,
        seconds=time.monotonic() - start,
    )


def _read(
    export: Path,
    work: WorkFolder,
    executor: Executor,
    calls: int,
    progress: Callable[[int, int], None] | None,
) -> Findings:
    """Read the files that no record covers, with at most `calls` calls queued in the executor."""
    records: list[Record] = [*usable(work.parts.glob("*.parquet"))]
    last = published(work.catalog, rejected_path(work.catalog))
    records += [last] if last else []
    known = KnownFiles.build(work.scratch / "known", _known_files(records))
    seen = np.zeros(len(known.files), bool)
    findings = Findings(records, known, seen)
    walk = _walk(export, {work.root, *work.outputs.values()}, findings.unlisted)
    done = listed = 0
    for reading, ended, begun in _readings(walk, work.scratch / "known", work, executor, calls):
        findings.files += reading.files
        findings.unchanged += len(reading.unchanged)
        seen[reading.unchanged] = True
        if reading.part:
            findings.parts.append(Part(reading.part))
        done, listed = done + ended, listed + begun
        if progress:
            progress(done, listed)
    return findings


def _known_files(records: list[Record]) -> Iterator[tuple[int, np.ndarray]]:
    for number, record in enumerate(records):
        # A file that could not be read may be readable next time without any change of its status.
        read_before = _unreadable_files(record)
        for table in record.tables(FILE_COLUMNS):
            files = file_fingerprints(table)
            yield number, files[find(read_before, files) < 0]


def _unreadable_files(record: Record) -> np.ndarray:
    """Fingerprints, ascending, of files that the system could not read completely."""
    fingerprints = [np.empty(0, FINGERPRINT)]
    for table in record.tables(FILE_COLUMNS):
        fingerprints.append(
            file_fingerprints(table.filter(pc.equal(table["reason"], Reason.UNREADABLE_FILE)))
        )
    return np.unique(np.concatenate(fingerprints))


def _walk(folder: Path, left_out: set[Path], unlisted: list[tuple[Source, Rejection]]) -> Iterator[bytes]:
    """The files of a tree, one folder in memory at a time; linked folders are not followed."""

    def cannot_list(error: OSError) -> None:
        unlisted.append((Source(Path(error.filename), 0, 0), unreadable(error)))

    excluded = {str(path) for path in left_out}
    for parent, folders, names in os.walk(folder, onerror=cannot_list):
        linked = sum(os.path.islink(os.path.join(parent, name)) for name in folders)
        if linked:
            log.warning("%d linked folders are not followed: scan their targets separately", linked)
        folders[:] = sorted(name for name in folders if os.path.join(parent, name) not in excluded)
        paths = (os.path.join(parent, name) for name in sorted(names))
        yield from (os.fsencode(path) for path in paths if path not in excluded)


def _readings(
    files: Iterator[bytes], known: Path, work: WorkFolder, executor: Executor, calls: int
) -> Iterator[tuple[Reading, int, int]]:
    """Readings of batches in order of completion, with the files done since the last and the files found.

    Each archive is a separate batch. known: folder of `KnownFiles`.
    """
    archives: deque[bytes] = deque()
    running: dict[Future[Reading], int] = {}
    count = 0
    run, number = time.time_ns(), 0  # part names differ from those of killed runs and their surviving workers
    while True:
        while len(running) < calls:
            enter = bool(archives)
            paths = [archives.popleft()] if enter else list(islice(files, BATCH_FILES))
            if not paths:
                break
            count += 0 if enter else len(paths)
            number += 1
            part = work.parts / f"{run}-{number:08d}.parquet"
            future = executor.submit(read_files, part, known, paths, enter)
            running[future] = len(paths)
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            reading, names = future.result(), running.pop(future)
            archives.extend(reading.archives)
            yield reading, names - len(reading.archives), count
            count = 0


def _require_ct(export: Path, tables: Tables) -> None:
    """Raise FmctError that lists what was found unless there is some CT."""
    if not tables.modalities:
        if not tables.skipped and not tables.rejected:
            raise FmctError(f"{export}: the folder is empty; give the folder that holds the DICOM export")
        others = [f"{tables.skipped} other files"] * bool(tables.skipped)
        others += [f"{n} {name}" for name, n in tables.rejected.items()]
        raise FmctError(f"{export}: no readable DICOM (found {', '.join(others)}); give the export's folder")
    if "CT" not in tables.modalities:
        others = [f"{n} of {name or 'no modality'}" for name, n in tables.modalities.items()]
        raise FmctError(
            f"{export}: no CT among the DICOM files (found {', '.join(others)}); export CT series"
        )
