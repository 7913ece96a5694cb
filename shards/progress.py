"""Progress of a stage: the number of finished units of its ledgers, and the ledgers that a job works on.

A stage registers its ledgers in a file of its job, so that the restart policy and `fmct launch status` can
count units without knowing the stage.
"""

import logging
import os
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, ValidationError

from shards.atomic import write_text
from shards.closed import Closed
from shards.share import WHOLE, Share

log = logging.getLogger(__name__)

VARIABLE = "FMCT_LEDGERS"
"""Environment of a job's command: the file to register ledgers in; unset outside jobs."""
SUFFIX = ".ledgers.json"
"""Suffix of that file's name, after the job's number."""


class Progress(NamedTuple):
    """The state of a ledger, or of a share of it."""

    done: int | None
    """Units that are done; None if it cannot be known yet."""
    total: int | None = None
    """Units in all; None if that is not known."""
    failed: int = 0
    """Units that failed in the latest start."""
    unit: str = "unit"
    """The name of one unit."""


class Registered(Closed):
    """A ledger registered by a stage."""

    ledger: Annotated[str, Field(pattern="^[a-z]{1,40}$")]
    """Its name in launch/jobs/ledgers.py, which counts finished units."""
    place: str
    """Absolute path of its output folder, or of the catalog for a scan."""
    share: tuple[int, int] = WHOLE
    """The share (i, n) of this job or array task."""
    total: int | None = None
    """Units of the share."""
    of_all: int | None = None
    """Units of the whole ledger."""
    failed: int = 0
    """Units of the share that failed."""


class Registrations(Closed):
    """The content of a job's file."""

    ledgers: tuple[Registered, ...] = ()


def register(
    ledger: str,
    place: Path,
    share: Share = WHOLE,
    *,
    total: int | None = None,
    of_all: int | None = None,
    failed: int = 0,
) -> None:
    """Register a ledger of this job, replacing its earlier entry; does nothing outside jobs.

    total, failed: units of the share; of_all: units of the whole ledger. If the file cannot be written, a
    warning is logged and the job's progress stays unknown.
    """
    if not (name := os.environ.get(VARIABLE)):
        return
    file = Path(name)
    own = Registered(
        ledger=ledger,
        place=str(place.absolute()),
        share=share,
        total=total,
        of_all=of_all if of_all is not None or share != WHOLE else total,
        failed=failed,
    )
    others = [one for one in registered(file) if (one.ledger, one.place, one.share) != _identity(own)]
    try:
        write_text(file, Registrations(ledgers=(*others, own)).model_dump_json() + "\n")
    except (OSError, ValueError) as error:  # also a path that is not UTF-8
        log.warning("%s: cannot register the ledger of this job: %s", file, error)


def registered(file: Path) -> tuple[Registered, ...]:
    """The ledgers that a job registered in `file`; empty if it is missing, damaged or of another version."""
    try:
        return Registrations.model_validate_json(file.read_bytes()).ledgers
    except (OSError, ValidationError):
        return ()


def _identity(one: Registered) -> tuple[str, str, tuple[int, int]]:
    return one.ledger, one.place, one.share
