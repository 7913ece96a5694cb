"""Who may read the outputs: one mask (umask) for a process and its children."""

import os
from typing import Literal

from shards.errors import FmctError

Share = Literal["owner", "group", "all"]

VARIABLE = "FMCT_SHARE"
"""Environment: passes the choice to jobs and ranks."""


_MASKS: dict[str, int] = {"owner": 0o077, "group": 0o027, "all": 0o022}


def share(with_whom: Share | None) -> None:
    """Have all that this process writes from now on be readable by its owner, the group, or everybody.

    None: what `VARIABLE` says, else the group at most, as the user's own umask is where that is stricter.
    Files made 0600 or folders made 0700 (catalog, keys, caches) stay as they are. Raises FmctError where
    `VARIABLE` is none of the three.
    """
    named = with_whom or os.environ.get(VARIABLE)
    if not named:
        os.umask(os.umask(0o077) | _MASKS["group"])
        return
    if named not in _MASKS:
        raise FmctError(f"{VARIABLE}={named!r}: expected owner, group or all")
    os.umask(_MASKS[named])
    os.environ[VARIABLE] = named


def chosen() -> Share:
    """Who may read what is written, by `VARIABLE`; the group without it."""
    named = os.environ.get(VARIABLE)
    return named if named in _MASKS else "group"  # type: ignore[return-value]


def beyond(mode: int) -> int:
    """The bits of a file's mode that let others do more than was chosen."""
    return mode & _MASKS[chosen()]


def closing() -> str:
    """What chmod(1) takes to have no more than was chosen."""
    return {"owner": "go=", "group": "g-w,o=", "all": "go-w"}[chosen()]
