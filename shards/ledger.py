"""A ledger: work in units, each with a marker that is written last, so that a rerun does what is missing.

A stage plans its units; each has a digest of whatever its outputs depend on, which is part of its files'
names or of its marker. A share of an array makes its units, the marker of each after its other files, and a
last job collects them in the plan's order. Where the files lie, and what they are, is the stage's own
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
from shards.newer import newer
from shards.share import Share

Unit = TypeVar("Unit")
Kept = TypeVar("Kept")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Ledger(Generic[Unit, Kept]):
    """Units, and how to find out which of them are done."""

    units: Sequence[Unit]
    """In the order in which they are collected."""
    kept: Callable[[Unit], Kept | None]
    """What is kept of a unit: a false value unless its marker is there and of its digest, its files whole.

    Raises RefusedError if the system does not give it, and FmctError if a newer version wrote it.
    """

    def share(self, share: Share) -> "Ledger[Unit, Kept]":
        """The ledger of a share's units."""
        return replace(self, units=share.part(self.units))

    def found(self) -> list[Kept | None]:
        """What is kept of each unit, in order."""
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
        """Call `make` for each missing unit, in order; returns their number.

        progress: called with the units made and those to make. prepare: called first, with all missing units.
        """
        missing = self.missing()
        prepare(missing)
        for done, unit in enumerate(missing):
            progress(done, len(missing))
            make(unit)
        progress(len(missing), len(missing))
        return len(missing)

    def collect(self, refuse: Callable[[list[int]], FmctError]) -> list[Kept]:
        """What is kept of all units, in order; raises what `refuse` makes of the places of missing ones."""
        found = self.found()
        if missing := [place for place, kept in enumerate(found) if kept is None]:
            raise refuse(missing)
        return [kept for kept in found if kept is not None]


def mark(path: Path, record: BaseModel) -> None:
    """Write a unit's marker, as indented JSON; all its other files are complete by now."""
    write_text(path, record.model_dump_json(indent=1) + "\n")


def marked(path: Path, model: type[Model]) -> Model | None:
    """The marker at `path`; None if it is missing or damaged.

    Raises RefusedError if the system does not give it, and FmctError if a newer version wrote it.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise_refusal(error, path)
        if refusal := newer(path, error):
            raise refusal from None
        return None


def once(marker: Path, what: str, kept: Callable[[], Kept | None], make: Callable[[], Kept]) -> Kept:
    """What is kept of a unit, or else what `make` makes of it, alone.

    what: the unit, for the message of the HeldError that is raised if another process makes it now. The lock
    is a file beside the marker, which its process holds.
    """
    with writing(marker.parent, what, name=f".{marker.stem}.lock"):
        return kept() or make()
