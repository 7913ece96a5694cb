"""One writer per output: a file lock that also records which process holds it."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shards import json_text
from shards.errors import FmctError
from shards.job import RunningJob
from shards.output_paths import require_folder

LOCK_NAME = ".lock"
WITHOUT = "FMCT_NO_LOCKS"
"""Environment: 1 for a file system without locks; the user then starts one command at a time."""

RESTART_SECONDS = 150.0
"""NFS keeps the locks of a dead client until its lease ends, by default after 90 seconds."""

_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_held: set[int] = set()
"""Descriptors of the locks that this process holds."""


class LockHeldError(FmctError):
    """Another process is writing to the output; the same command works once that process has ended."""


@contextmanager
def writing(folder: Path, what: str, *, shared: bool = False, name: str = LOCK_NAME) -> Iterator[None]:
    """Lock the output `folder`, created if missing, while `what` (a command) writes to it.

    shared: allow other shared writers, such as the shares of a job array, which write different files;
    otherwise the lock is exclusive. name: the lock's file name in the folder. The lock ends with the process,
    however it ends; children do not inherit it. An exclusive writer that fails removes a folder that it
    created and left empty.

    A job that its scheduler restarted waits up to `RESTART_SECONDS` for locks of its previous start.
    Raises LockHeldError, naming the holder, if another process holds the lock; FmctError if the folder is not
    writable, its file system has no locks, the lock file is a link, or another user's link is in the folder.
    """
    require_folder(folder)
    made = not folder.exists()
    _require_no_foreign_links(folder)
    file = folder / name
    patience = RESTART_SECONDS if RunningJob.current().restarts else 0
    descriptor = _acquire(file, shared, time.monotonic() + patience)
    _held.add(descriptor)
    try:
        _sign(descriptor, what)
        yield
    except BaseException:
        if made and not shared:
            with suppress(OSError):  # not empty
                file.unlink()
                folder.rmdir()
        raise
    finally:
        if not shared:
            with suppress(OSError):
                file.unlink()
        _held.discard(descriptor)
        os.close(descriptor)


def is_held(folder: Path, name: str = LOCK_NAME) -> bool:
    """Whether a process holds the lock of `folder`; False also if that cannot be determined."""
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _lock(descriptor, folder, shared=True)
    except (OSError, FmctError):
        return False
    finally:
        os.close(descriptor)


def _require_no_foreign_links(folder: Path) -> None:
    """Raise FmctError if another user's link in the folder could redirect outputs.

    The user's own links are allowed: checkpoints, for example, may be on another disk.
    """
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink() and entry.stat(follow_symlinks=False).st_uid not in (0, os.geteuid()):
                raise FmctError(f"{entry.path}: is a link of another user; remove it, or give another folder")


def _acquire(file: Path, shared: bool, deadline: float) -> int:
    """A descriptor of the file at `file` that holds its lock."""
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = _open(file)
        except FileNotFoundError:  # its last holder just removed the folder
            continue
        try:
            if _lock(descriptor, file.parent, shared):
                if _names(descriptor, file):
                    return descriptor
                os.close(descriptor)  # its last holder just removed it
                continue
            if time.monotonic() >= deadline:
                raise LockHeldError(
                    f"{file.parent}: {_holder(descriptor)} is writing there; wait until it ends, or stop it"
                )
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(0.5)


def _open(file: Path) -> int:
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FmctError(f"{file}: is a link, but fmct needs a file here; remove it") from None
        raise


def _lock(descriptor: int, folder: Path, shared: bool) -> bool:
    """Try to lock; whether that succeeded. FmctError if the file system has no locks."""
    if os.environ.get(WITHOUT) == "1":
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        why = os.strerror(error.errno or 0).lower()
        raise FmctError(
            f"{folder}: its file system has no locks ({why}); have it mounted with flock (Lustre: -o flock), "
            f"or set {WITHOUT}=1 and start one command at a time there"
        ) from None
    return True


def _names(descriptor: int, file: Path) -> bool:
    """Whether `file` still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _sign(descriptor: int, what: str) -> None:
    """Write the holder into the lock file; of shared holders, the last one."""
    holder = {"what": what, "pid": os.getpid(), "host": socket.gethostname(), "since": int(time.time())}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _holder(descriptor: int) -> str:
    """The holder recorded in the lock file."""
    try:
        holder = json_text.parse(os.pread(descriptor, 4096, 0))
        what, pid, host = str(holder["what"]), int(holder["pid"]), str(holder["host"])
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(int(holder["since"])))
    except (ValueError, KeyError, TypeError, OverflowError):
        return "another process"
    return f"{what[:80]!a} (process {pid} on {host[:80]!a}, since {since})"


def _forget_in_child() -> None:
    """Close a forked child's copies of the descriptors, so that it does not keep the parent's locks."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)
