"""Scanning an export: every file of a tree, headers only, into the catalog."""

import fcntl
import logging
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from preprocess.catalog_table import INSTANCE_TABLE, SERIES_KEY, CatalogWriter, PrivateParquet
from preprocess.duplicates import Duplicates, Repeated
from preprocess.findings import (
    FILE_COLUMNS,
    FOUND_TABLE,
    REJECTED_TABLE,
    Part,
    Reading,
    Record,
    file_fingerprints,
    published,
    read_files,
    rejected_rows,
    unreadable,
    usable,
)
from preprocess.known import Known
from preprocess.processes import InlineExecutor, process_pool
from preprocess.reasons import Reason, Rejection
from preprocess.sources import Source
from preprocess.spill import Partitions, splitters
from shards.atomic import sync, write_text
from shards.errors import FmctError

log = logging.getLogger(__name__)

BATCH_FILES = 1024
"""Files a worker reads at a time: about a second's work, which is what a kill loses."""


@dataclass(frozen=True)
class ScanSummary:
    """What a scan found."""

    files: int
    """Regular files met; an archive is one."""
    unchanged: int
    """Those that were not read, because an earlier scan had read them."""
    objects: int
    """DICOM objects in the catalog."""
    series: int
    modalities: dict[str, int]
    """Images by modality, the commonest first."""
    skipped: int
    """Files and members that are not DICOM objects (and DICOMDIR indexes, whose word is not taken)."""
    rejected: dict[Reason, int]
    """Broken files, members and archives, in the rejected table, counted by reason."""
    repeated: Repeated
    seconds: float

    def __str__(self) -> str:
        modalities = ", ".join(f"{n} {name or 'of no modality'}" for name, n in self.modalities.items())
        rejected = ", ".join(f"{n} {reason}" for reason, n in self.rejected.items()) or "none"
        speed = f"{self.files / self.seconds:.0f} files/s" if self.seconds else "at once"
        lines = [
            f"{self.series} series of {self.objects} objects (images: {modalities})",
            f"  files     {self.files} at {speed}; {self.unchanged} of them unchanged and not read again",
            f"  rejected  {rejected}; {self.skipped} are not DICOM",
            f"  repeated  {self.repeated.same_bytes} objects are there again byte for byte,"
            f" {self.repeated.other_bytes} with other bytes",
        ]
        return "\n".join(lines)


def rejected_path(catalog: Path) -> Path:
    """The table beside a catalog of what is not in it (`REJECTED_TABLE`): place, reason, detail."""
    return catalog.with_name(f"{catalog.stem}.rejected.parquet")


def scan(
    export: Path, catalog: Path, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> ScanSummary:
    """Read the header of every file under `export`, and of every member of its zip and tar archives.

    Writes `catalog` (see preprocess.catalog) and `rejected_path(catalog)`, both only when the scan is
    complete. Files that have the size and modification time that an earlier scan, complete or killed,
    saw are not read again. The tables depend neither on that nor on the number of `workers`, and are
    made in memory that does not grow with the export. `progress` is called with (files done, files
    found so far).

    Raises FmctError where the folder is missing or empty, or holds no DICOM or no CT, where another scan
    writes the same catalog, or a worker dies.
    """
    if not export.is_dir():
        raise FmctError(f"{export}: no such folder; give the folder that holds the DICOM export")
    start = time.monotonic()
    with _workplace(catalog) as work, ExitStack() as stack:
        executor: Executor = InlineExecutor() if workers == 1 else stack.enter_context(process_pool(workers))
        try:
            findings = _read(export.absolute(), work, executor, 1 if workers == 1 else 3 * workers, progress)
            summary = _write(findings, export, work, executor, start)
        except BrokenProcessPool:
            raise FmctError(
                f"{catalog}: a worker process died, perhaps for lack of memory; what is read is kept: "
                "run the same command again, with fewer `--workers` if it recurs"
            ) from None
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise FmctError(
                f"{work.root}: {why}; mend that and run the same command again: what is read is kept"
            ) from None
        if summary.modalities.get("CT"):
            _publish(work)
    _require_ct(export, summary)
    return summary


@dataclass(frozen=True)
class _Work:
    """The hidden folder beside the catalog where a scan keeps what it has, until it is complete."""

    catalog: Path

    @property
    def root(self) -> Path:
        return self.catalog.with_name(f".{self.catalog.name}.scan")

    @property
    def parts(self) -> Path:
        """What workers found; a scan that was killed goes on from it."""
        return self.root / "parts"

    @property
    def scratch(self) -> Path:
        """What a killed scan makes anew."""
        return self.root / "scratch"

    @property
    def outputs(self) -> dict[Path, Path]:
        """Each finished table and where it goes."""
        return {
            self.root / "rejected": rejected_path(self.catalog),
            self.root / "catalog": self.catalog,
        }

    @property
    def complete(self) -> Path:
        """Marks that the outputs are whole, so that they are published together."""
        return self.root / "complete"


@contextmanager
def _workplace(catalog: Path) -> Iterator[_Work]:
    """Hold the folder: two scans would ruin each other's."""
    work = _Work(catalog.absolute())
    work.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (work.root / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FmctError(f"{catalog}: another scan is writing it; wait for it, or end it") from None
        except OSError as error:
            log.warning("%s: no lock (%s): start no second scan", work.root, os.strerror(error.errno or 0))
        if work.complete.exists():
            _publish(work)
        shutil.rmtree(work.scratch, ignore_errors=True)
        for folder in (work.root, work.parts, work.scratch):
            folder.mkdir(mode=0o700, exist_ok=True)
        yield work
        shutil.rmtree(work.root)


def _publish(work: _Work) -> None:
    """Put the outputs in their places, both or none: safe to be killed in and repeated."""
    write_text(work.complete, "")
    for made, place in work.outputs.items():
        if made.exists():
            os.replace(made, place)
    sync(work.catalog.parent)
    shutil.rmtree(work.parts)
    work.complete.unlink()


@dataclass
class _Findings:
    """Everything that is found in the tree as it is now."""

    records: list[Record]
    """What earlier scans left."""
    known: Known
    """The files in `records`."""
    seen: np.ndarray
    """bool, one for each known file: is it there still, unchanged?"""
    parts: list[Part] = field(default_factory=list)
    """What this scan read."""
    unlisted: list[tuple[Source, Rejection]] = field(default_factory=list)
    """Folders that cannot be listed."""
    files: int = 0
    unchanged: int = 0

    def tables(self) -> Iterator[pa.Table]:
        """The findings, as `FOUND_TABLE` rows, some thousands at a time."""
        yield pa.Table.from_pylist(rejected_rows(self.unlisted), schema=FOUND_TABLE)
        for part in self.parts:
            yield from part.tables()
        for number, record in enumerate(self.records):
            for table in record.tables():
                yield table.filter(pa.array(self._kept(number, file_fingerprints(table))))

    def _kept(self, record: int, files: np.ndarray) -> np.ndarray:
        """Are these files of a record there still, and is it the one that counts for them? bool (n,)"""
        places = self.known.find(files)
        kept = places >= 0
        places = places[kept]
        kept[kept] = self.seen[places] & (self.known.records[places] == record)
        return kept

    def columns(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """These columns of all findings, those of files that are gone among them."""
        for record in [*self.records, *self.parts]:
            yield from record.tables(names)


def _read(
    export: Path,
    work: _Work,
    executor: Executor,
    calls: int,
    progress: Callable[[int, int], None] | None,
) -> _Findings:
    """Read what no record holds; `calls` are given to the executor at a time."""
    records: list[Record] = [*usable(work.parts.glob("*.parquet"))]
    last = published(work.catalog, rejected_path(work.catalog))
    records += [last] if last else []
    known = Known.build(work.scratch / "known", _known_files(records))
    seen = np.zeros(len(known.files), bool)
    findings = _Findings(records, known, seen)
    walk = _Walk(export, {work.root, *work.outputs.values()}, findings.unlisted)
    done = 0
    for reading, names in _readings(walk, work, executor, calls):
        findings.files += reading.files
        findings.unchanged += len(reading.unchanged)
        findings.seen[reading.unchanged] = True
        if reading.part:
            findings.parts.append(Part(reading.part))
        done += names
        if progress:
            progress(done, walk.listed)
    return findings


def _known_files(records: list[Record]) -> Iterator[tuple[int, np.ndarray]]:
    for number, record in enumerate(records):
        for table in record.tables(FILE_COLUMNS):
            # What the system did not give may be given next time, and nothing of the file shows it.
            tried = pc.equal(table["reason"], Reason.UNREADABLE_FILE).fill_null(False)
            yield number, file_fingerprints(table.filter(pc.invert(tried)))


class _Walk:
    """The files of a tree, in batches, one folder in memory at a time; linked folders are not entered."""

    def __init__(self, folder: Path, left_out: set[Path], unlisted: list[tuple[Source, Rejection]]) -> None:
        self._folder, self._left_out, self._unlisted = folder, left_out, unlisted
        self.listed = 0

    def __iter__(self) -> Iterator[list[bytes]]:
        batch: list[bytes] = []
        for path in self._paths():
            batch.append(os.fsencode(path))
            self.listed += 1
            if len(batch) == BATCH_FILES:
                yield batch
                batch = []
        if batch:
            yield batch

    def _paths(self) -> Iterator[str]:
        left_out = {str(path) for path in self._left_out}
        for parent, folders, names in os.walk(self._folder, onerror=self._cannot_list):
            linked = sum(os.path.islink(os.path.join(parent, name)) for name in folders)
            if linked:
                log.warning("%d linked folders are not entered: scan their targets on their own", linked)
            folders[:] = sorted(name for name in folders if os.path.join(parent, name) not in left_out)
            yield from (
                path for name in sorted(names) if (path := os.path.join(parent, name)) not in left_out
            )

    def _cannot_list(self, error: OSError) -> None:
        self._unlisted.append((Source(Path(error.filename), 0, 0), unreadable(error)))


def _readings(walk: _Walk, work: _Work, executor: Executor, calls: int) -> Iterator[tuple[Reading, int]]:
    """Each batch's reading, as they end, and how many files it is done with.

    Each archive that is met is a batch of its own.
    """
    batches = iter(walk)
    archives: deque[bytes] = deque()
    running: dict[Future[Reading], int] = {}
    run, number = time.time_ns(), 0  # part names that no killed run has given, nor a worker that outlived it
    while True:
        while len(running) < calls:
            enter = bool(archives)
            paths = [archives.popleft()] if enter else next(batches, None)
            if paths is None:
                break
            number += 1
            part = work.parts / f"{run}-{number:08d}.parquet"
            future = executor.submit(read_files, part, work.scratch / "known", paths, enter)
            running[future] = len(paths)
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            reading, names = future.result(), running.pop(future)
            archives.extend(reading.archives)
            yield reading, names - len(reading.archives)


def _write(findings: _Findings, export: Path, work: _Work, executor: Executor, start: float) -> ScanSummary:
    """Group the findings into the two tables."""
    keys = splitters(_series_key(table) for table in findings.columns(SERIES_KEY))
    images = Partitions(work.scratch / "images", _series_key, keys)
    paths = splitters(table["path"] for table in findings.columns(["path"]))
    rejected = Partitions(work.scratch / "rejected", lambda table: table["path"], paths)
    duplicates = Duplicates(work.scratch / "duplicates")
    objects, modalities, reasons = 0, Counter[str](), Counter[Reason]()
    for table in findings.tables():
        found = table.filter(pc.is_null(table["reason"])).select(INSTANCE_TABLE.names)
        images.add(found)
        duplicates.add(found)
        objects += pc.sum(pc.equal(found["frame"], 0)).as_py() or 0
        modalities.update(found["modality"].to_pylist())
        refused = table.filter(pc.is_valid(table["reason"])).select(REJECTED_TABLE.names)
        rejected.add(refused)
        reasons.update(map(Reason, refused["reason"].to_pylist()))
    skipped = reasons.pop(Reason.NOT_DICOM, 0)
    made_rejected, made_catalog = work.outputs
    with PrivateParquet(made_rejected, REJECTED_TABLE) as file:
        for table in rejected:
            order = ("path", "offset", "member", "reason", "detail")
            file.add(table.sort_by([(name, "ascending") for name in order]))
    with CatalogWriter(made_catalog) as file:
        for table in images:
            file.add(duplicates.digested(table, executor))
    return ScanSummary(
        files=findings.files,
        unchanged=findings.unchanged,
        objects=objects,
        series=pq.read_metadata(made_catalog).num_rows,
        modalities=dict(modalities.most_common()),
        skipped=skipped,
        rejected=dict(sorted(reasons.items())),
        repeated=duplicates.count(),
        seconds=time.monotonic() - start,
    )


def _series_key(table: pa.Table) -> pa.ChunkedArray:
    """A string a row, which sorts as (patient, study, series) do: no text of the catalog holds a NUL."""
    return pc.binary_join_element_wise(*(table[name] for name in SERIES_KEY), "\0")


def _require_ct(export: Path, found: ScanSummary) -> None:
    """Raise FmctError, saying what was found instead, unless there is some CT."""
    if not found.modalities:
        if not found.skipped and not found.rejected:
            raise FmctError(f"{export}: the folder is empty; give the folder that holds the DICOM export")
        others = [f"{found.skipped} other files"] * bool(found.skipped)
        others += [f"{n} {name}" for name, n in found.rejected.items()]
        raise FmctError(f"{export}: no readable DICOM (found {', '.join(others)}); give the export's folder")
    if "CT" not in found.modalities:
        others = [f"{n} of {name or 'no modality'}" for name, n in found.modalities.items()]
        raise FmctError(
            f"{export}: no CT among the DICOM files (found {', '.join(others)}); export CT series"
        )
