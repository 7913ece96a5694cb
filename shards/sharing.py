"""Read permission of outputs: one umask for a process and its children."""

import os
from typing import Literal

from shards.errors import FmctError

Share = Literal["owner", "group", "all"]

VARIABLE = "FMCT_SHARE"
"""Environment: passes the setting to jobs and ranks."""


_MASKS: dict[str, int] = {"owner": 0o077, "group": 0o027, "all": 0o022}


def share(with_whom: Share | None) -> None:
    """Set the umask so that new files are readable by their owner, the group, or everybody.

    None: the value of `VARIABLE`, else at most the group; a stricter umask of the user is kept. Files created
    with mode 0600 or folders with 0700 (catalog, keys, caches) are not affected. Raises FmctError if
    `VARIABLE` is not one of the three.
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
    """Who may read outputs, from `VARIABLE`; by default the group."""
    named = os.environ.get(VARIABLE)
    return named if named in _MASKS else "group"  # type: ignore[return-value]


def beyond(mode: int) -> int:
    """Bits of a file's mode that allow more than the chosen setting."""
    return mode & _MASKS[chosen()]


def closing() -> str:
    """The chmod(1) argument that removes permissions beyond the chosen setting."""
    return {"owner": "go=", "group": "g-w,o=", "all": "go-w"}[chosen()]
