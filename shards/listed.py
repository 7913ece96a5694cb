"""A ledger of files: a stage lists the file that each of its units leaves, and those that exist are done.

For stages whose files are named by digests alone, so that names give neither numbers nor a total. The list
is written when a share of an array starts, and is the same for all shares.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from shards.atomic import write_text
from shards.closed import Closed
from shards.progress import Progress, register
from shards.share import WHOLE, Share

LIST = "units.json"


class Listed(Closed):
    """The content of the list."""

    files: tuple[Annotated[str, Field(pattern=r"^units/[0-9a-f]{1,64}\.[a-z]{1,20}$")], ...]
    """The file that each unit writes last, relative to the output folder, in the plan's order."""


def register_files(out: Path, files: Sequence[Path], share: Share = WHOLE) -> None:
    """List the files of all units, and register this job's share of them (`shards.progress.register`)."""
    listed = Listed(files=tuple(file.relative_to(out).as_posix() for file in files))
    if _read(out) != listed:
        write_text(out / LIST, listed.model_dump_json() + "\n")
    register("files", out, share, total=len(share.part(files)), of_all=len(files))


def progress(out: Path, share: Share = WHOLE) -> Progress:
    """How many units of a share have their file; not known without a list."""
    listed = _read(out)
    if listed is None:
        return Progress(None)
    own = share.part(listed.files)
    return Progress(sum((out / name).is_file() for name in own), len(own))


def finished(out: Path) -> list[Path]:
    """The files of the units that are done; empty without a list."""
    listed = _read(out)
    return [out / name for name in listed.files if (out / name).is_file()] if listed else []


def _read(out: Path) -> Listed | None:
    try:
        return Listed.model_validate_json((out / LIST).read_bytes())
    except (OSError, ValidationError):
        return None
