"""A ledger: work in units, each with a marker that is written last, so that a rerun does only missing units.

A stage plans its units. Each unit has a digest of everything that its outputs depend on; the digest is part
of its file names or of its marker. A share of a job array makes its units and writes the marker of each after
its other files. A last job collects all units in the plan's order. Each stage defines its own files
(docs/architecture.md, "How to add a stage that runs as an array").
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from shards.atomic import write_text
from shards.errors import FmctError, raise_refusal
from shards.lock import writing
from shards.newer_version import newer_version_error
from shards.share import Share

Unit = TypeVar("Unit")
Kept = TypeVar("Kept")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Ledger(Generic[Unit, Kept]):
    """Units, and a function that reads the result of a unit that is done."""

    units: Sequence[Unit]
    """In collection order."""
    kept: Callable[[Unit], Kept | None]
    """The result of a unit; a false value unless a marker with its digest exists and its files are complete.

    Raises RefusedError if the system cannot read it, and FmctError if a newer version wrote it.
    """

    def share(self, share: Share) -> "Ledger[Unit, Kept]":
        """The ledger restricted to a share's units."""
        return replace(self, units=share.part(self.units))

    def found(self) -> list[Kept | None]:
        """The result of each unit, in order; false values for missing units."""
        return [self.kept(unit) or None for unit in self.units]

    def done(self) -> list[Unit]:
        """The units that are done, in order."""
        return [unit for unit in self.units if self.kept(unit)]

    def missing(self) -> list[Unit]:
        """The units that are not done, in order."""
        return [unit for unit in self.units if not self.kept(unit)]

    def make(
        self,
        make: Callable[[Unit], object],
        progress: Callable[[int, int], None] = lambda done, total: None,
        prepare: Callable[[list[Unit]], object] = lambda missing: None,
    ) -> int:
        """Call `make` for each missing unit, in order; return their number.

        progress: called with (units made, units to make). prepare: called first, with all missing units.
        """
        missing = self.missing()
        prepare(missing)
        for done, unit in enumerate(missing):
            progress(done, len(missing))
            make(unit)
        progress(len(missing), len(missing))
        return len(missing)

    def collect(self, refuse: Callable[[list[int]], FmctError]) -> list[Kept]:
        """The results of all units, in order; raises `refuse(positions of the missing units)`."""
        results = self.found()
        if missing := [place for place, kept in enumerate(results) if kept is None]:
            raise refuse(missing)
        return [kept for kept in results if kept is not None]


def mark(path: Path, record: BaseModel) -> None:
    """Write a unit's marker, as indented JSON; all its other files must be complete."""
    write_text(path, record.model_dump_json(indent=1) + "\n")


def marked(path: Path, model: type[Model]) -> Model | None:
    """Read the marker at `path`; None if it is missing or damaged.

    Raises RefusedError if the system cannot read it, and FmctError if a newer version wrote it.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise_refusal(error, path)
        if refusal := newer_version_error(path, error):
            raise refusal from None
        return None


def once(marker: Path, what: str, kept: Callable[[], Kept | None], make: Callable[[], Kept]) -> Kept:
    """The stored result of a unit, or else the result of `make`, called under a lock.

    what: names the unit in the LockHeldError raised if another process is making it. The lock is a file
    beside the marker.
    """
    with writing(marker.parent, what, name=f".{marker.stem}.lock"):
        return kept() or make()
