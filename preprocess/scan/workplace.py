"""The hidden folder beside the catalog in which a scan works, and how its outputs replace the old ones."""

import os
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from preprocess.dicom.catalog_table import SERIES_KEY
from shards.atomic import sync, write_text
from shards.errors import FmctError, raise_refusal
from shards.lock import writing
from shards.places import require_file
from shards.private import private_folder
from shards.progress import Progress, register
from shards.share import WHOLE, Share

_CATALOG, _REJECTED = {*SERIES_KEY, "instances"}, {"path", "reason", "detail"}
"""Columns that they had in every version."""


def rejected_path(catalog: Path) -> Path:
    """The table beside a catalog of what is not in it (`REJECTED_TABLE`): place, reason, detail."""
    return catalog.with_name(f"{catalog.stem}.rejected.parquet")


@dataclass(frozen=True)
class Work:
    """The hidden folder beside the catalog where a scan keeps what it has, until it is complete."""

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
        """What is made again after a killed scan."""
        return self.root / "scratch"

    @property
    def made_catalog(self) -> Path:
        """The finished catalog, until it is published."""
        return self.root / "catalog"

    @property
    def made_rejected(self) -> Path:
        """The finished table of what is not in it."""
        return self.root / "rejected"

    @property
    def outputs(self) -> dict[Path, Path]:
        """Each finished table and where it goes."""
        return {self.made_rejected: rejected_path(self.catalog), self.made_catalog: self.catalog}

    @property
    def complete(self) -> Path:
        """Marks that the outputs are whole, so that they are published together."""
        return self.root / "complete"


@contextmanager
def workplace(catalog: Path) -> Iterator[Work]:
    """Hold the folder: two scans would ruin each other's.

    Raises FmctError where another scan holds it, and where an output can't be written or would replace a file
    that no scan wrote.
    """
    work = Work(catalog.absolute())
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
    """Raise FmctError unless `table` can be written, and there is none yet or one with these columns."""
    require_file(table)
    try:
        own = not table.exists() or columns <= {*pq.read_schema(table).names}
    except (OSError, pa.ArrowInvalid) as error:
        raise_refusal(error, table)
        own = False
    if not own:
        raise FmctError(f"{table}exists and was not written by `fmct scan`; move it away, or give another")


def progress(catalog: Path, share: Share = WHOLE) -> Progress:
    """How many batches of files an unfinished scan has read; the next one resumes from them."""
    return Progress(len(list(Work(catalog).parts.glob("*.parquet"))), unit="part")


def publish(work: Work) -> None:
    """Put the outputs in their places, both or none: safe to be killed in and repeated."""
    write_text(work.complete, "")
    for made, place in work.outputs.items():
        if made.exists():
            os.replace(made, place)
    sync(work.catalog.parent)
    if work.parts.exists():  # not after a kill behind the next line
        shutil.rmtree(work.parts)
    work.complete.unlink()
