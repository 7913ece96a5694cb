"""How far a stage is: how many units of its ledger are done, and where a job finds the ledgers it works on.

A stage that runs in a job registers its ledgers in the job's own file, so that whatever looks after the job
(its restart policy, `fmct launch status`) knows where to count, without knowing the stage.
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
"""Environment of a job's command: the file in which its stage registers ledgers; unset outside jobs."""
SUFFIX = ".ledgers.json"
"""Of that file, after the job's number."""


class Progress(NamedTuple):
    """The state of a ledger, or of a share of it."""

    done: int | None
    """Units that are done; None if it cannot be known yet."""
    total: int | None = None
    """Units in all; None if that is not known."""
    failed: int = 0
    """Units that were tried and failed, in the newest start."""
    unit: str = "unit"
    """The name of one."""


class Registered(Closed):
    """A ledger, as a stage registers it."""

    ledger: Annotated[str, Field(pattern="^[a-z]{1,40}$")]
    """Its name in launch/slurm/ledgers.py, which counts what is done."""
    place: str
    """The output folder that it lies in, or of a scan the catalog, from /."""
    share: tuple[int, int] = WHOLE
    """Of this job or array task: (i, n)."""
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
    """Register a ledger of this job, in place of what an earlier call said of it; nothing outside jobs.

    total: units of the share; of_all: of the whole ledger; failed: units of the share. A file that cannot be
    written costs a warning only: the progress of the job is then not known.
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
    except (OSError, ValueError) as error:  # a path that is no UTF-8 too
        log.warning("%s: the ledger of this job could not be registered: %s", file, error)


def registered(file: Path) -> tuple[Registered, ...]:
    """What a job has registered in `file`; empty if that is missing, damaged or of another version."""
    try:
        return Registrations.model_validate_json(file.read_bytes()).ledgers
    except (OSError, ValidationError):
        return ()


def _identity(one: Registered) -> tuple[str, str, tuple[int, int]]:
    return one.ledger, one.place, one.share
