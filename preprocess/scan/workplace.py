"""The hidden folder beside the catalog in which a scan works, and how its outputs replace the old ones."""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shards.atomic import sync, write_text
from shards.errors import FmctError

log = logging.getLogger(__name__)


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
        """What workers found; a scan that was killed goes on from it."""
        return self.root / "parts"

    @property
    def scratch(self) -> Path:
        """What a killed scan makes anew."""
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
    """Hold the folder: two scans would ruin each other's."""
    work = Work(catalog.absolute())
    work.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (work.root / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FmctError(f"{catalog}: another scan is writing it; wait for it, or end it") from None
        except OSError as error:
            log.warning("%s: no lock (%s): start no second scan", work.root, os.strerror(error.errno or 0))
        if work.complete.exists():
            publish(work)
        shutil.rmtree(work.scratch, ignore_errors=True)
        for folder in (work.root, work.parts, work.scratch):
            folder.mkdir(mode=0o700, exist_ok=True)
        yield work
        shutil.rmtree(work.root)


def parts_kept(catalog: Path) -> int:
    """How many batches of files an unfinished scan has read; the next one goes on from them."""
    return len(list(Work(catalog).parts.glob("*.parquet")))


def publish(work: Work) -> None:
    """Put the outputs in their places, both or none: safe to be killed in and repeated."""
    write_text(work.complete, "")
    for made, place in work.outputs.items():
        if made.exists():
            os.replace(made, place)
    sync(work.catalog.parent)
    shutil.rmtree(work.parts)
    work.complete.unlink()
