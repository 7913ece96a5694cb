"""Folders that are nobody else's, below places where anybody may write, such as a node's scratch."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from shards.errors import FmctError


def private_folder(path: Path) -> None:
    """Make `path` readable and writable by its owner only (0700), or check that it is such a folder of ours.

    One of ours that others could read, as earlier versions made it, is closed to them. Raises FmctError, with
    what to do, for a link, a file, another user's folder, and one that others can write to or replace.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    require_private(path)
    if stat.S_IMODE(path.lstat().st_mode) & 0o077:
        path.chmod(0o700)


def require_private(path: Path) -> None:
    """Raise FmctError unless the folder at `path` is ours, by owner, mode and the folders above it."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise FmctError(f"{path}: is a link or a file, where a folder has to be; name another place")
    if found.st_uid != os.getuid():
        raise FmctError(f"{path}: belongs to another user (uid {found.st_uid}); name another place")
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise FmctError(f"{path}: others can write to it, so nothing in it is trusted; remove it")
    for above in path.absolute().parents:
        mode = above.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            why = f"anybody can replace it, as {above} lacks the sticky bit"
            raise FmctError(f"{path}: {why}; name another place")
