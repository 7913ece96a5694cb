"""Folders that no other user can change, below directories that others can write to, such as node scratch."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from shards.errors import FmctError


def private_folder(path: Path) -> None:
    """Create `path` with mode 0700, or check that it is a private folder of this user.

    Our own folder that others could read (earlier versions made such) is set to 0700. Raises FmctError, with
    the remedy, for a link, a file, another user's folder, and one that others can write to or replace.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    require_own(path)
    if stat.S_IMODE(path.lstat().st_mode) & 0o077:
        path.chmod(0o700)


def own_folder(path: Path) -> None:
    """Create `path` writable by its owner only, or check that it is such a folder; others may read it.

    Write permission of others is removed from our own folder. Raises FmctError as `private_folder`.
    """
    path.mkdir(parents=True, exist_ok=True)
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
        path.chmod(stat.S_IMODE(status.st_mode) & ~0o022)
    require_own(path)


def require_own(path: Path, *, group: bool = False) -> None:
    """Raise FmctError unless `path` is our folder, safe by owner, mode and parent folders.

    group: also reject parent folders that are writable by their group.
    """
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise FmctError(f"{path}: is a link or a file, not a folder; give another path")
    if status.st_uid != os.getuid():
        raise FmctError(f"{path}: belongs to another user (uid {status.st_uid}); give another path")
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise FmctError(f"{path}: others can write to it, so nothing in it is trusted; remove it")
    others = stat.S_IWOTH | (stat.S_IWGRP if group else 0)
    for above in (*path.absolute().parents, *path.resolve().parents):  # both sides of links
        mode = above.stat().st_mode
        if mode & others and not mode & stat.S_ISVTX:
            why = f"others can replace it, as {above} lacks the sticky bit"
            raise FmctError(f"{path}: {why}; give another path")
