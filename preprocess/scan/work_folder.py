"""The hidden working folder of a scan beside the catalog, and the publication of its outputs."""

import os
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from preprocess.dicom.catalog import SERIES_KEY
from shards.atomic import sync, write_text
from shards.errors import FmctError, raise_refusal
from shards.lock import writing
from shards.output_paths import require_file
from shards.private import private_folder
from shards.progress import Progress, register
from shards.share import WHOLE, Share

_CATALOG, _REJECTED = {*SERIES_KEY, "instances"}, {"path", "reason", "detail"}
"""Columns present in all versions."""


def rejected_path(catalog: Path) -> Path:
    """The table of rejected objects beside a catalog (`REJECTED_TABLE`): place, reason, detail."""
    return catalog.with_name(f"{catalog.stem}.rejected.parquet")


@dataclass(frozen=True)
class WorkFolder:
    """The hidden folder beside the catalog where a scan keeps its progress until it is complete."""

    catalog: Path

    @property
    def root(self) -> Path:
        """The folder."""
        return self.catalog.with_name(f".{self.catalog.name}.scan")

    @property
    def parts(self) -> Path:
        """Findings of workers; a killed scan resumes from them."""
        return self.root / "parts"

    @property
    def scratch(self) -> Path:
        """Temporary files, made again after a killed scan."""
        return self.root / "scratch"

    @property
    def made_catalog(self) -> Path:
        """The finished catalog, until it is published."""
        return self.root / "catalog"

    @property
    def made_rejected(self) -> Path:
        """The finished table of rejected objects."""
        return self.root / "rejected"

    @property
    def outputs(self) -> dict[Path, Path]:
        """Each finished table and its destination."""
        return {self.made_rejected: rejected_path(self.catalog), self.made_catalog: self.catalog}

    @property
    def complete(self) -> Path:
        """Marks that the outputs are complete, so that they are published together."""
        return self.root / "complete"


@contextmanager
def work_folder(catalog: Path) -> Iterator[WorkFolder]:
    """Lock the folder, so that only one scan uses it.

    Raises FmctError if another scan holds the lock, or if an output cannot be written or would replace a file
    that is not from a scan.
    """
    work = WorkFolder(catalog.absolute())
    _require_own(catalog, _CATALOG)
    _require_own(rejected_path(catalog), _REJECTED)
    private_folder(work.root)
    register("scan", work.catalog)
    with writing(work.root, "fmct scan"):
        if work.complete.exists():
            publish(work)
        shutil.rmtree(work.scratch, ignore_errors=True)
        for folder in (work.root, work.parts, work.scratch):
            folder.mkdir(mode=0o700, exist_ok=True)
        yield work
        shutil.rmtree(work.root)


def _require_own(table: Path, columns: Set[str]) -> None:
    """Raise FmctError unless `table` can be written and is missing or has these columns."""
    require_file(table)
    try:
        own = not table.exists() or columns <= {*pq.read_schema(table).names}
    except (OSError, pa.ArrowInvalid) as error:
        raise_refusal(error, table)
        own = False
    if not own:
        raise FmctError(f"{table}exists and was not written by `fmct scan`; move it away, or give another")


def progress(catalog: Path, share: Share = WHOLE) -> Progress:
    """The number of batches of files that an unfinished scan has read; the next scan resumes from them."""
    return Progress(len(list(WorkFolder(catalog).parts.glob("*.parquet"))), unit="part")


def publish(work: WorkFolder) -> None:
    """Move both outputs to their destinations; can be interrupted and repeated safely."""
    write_text(work.complete, "")
    for made, place in work.outputs.items():
        if made.exists():
            os.replace(made, place)
    sync(work.catalog.parent)
    if work.parts.exists():  # missing if killed after the next line
        shutil.rmtree(work.parts)
    work.complete.unlink()
