"""One writer an output: a lock that its process holds, and that tells others who holds it."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shards.errors import FmctError

LOCK_NAME = ".lock"
WITHOUT = "FMCT_NO_LOCKS"
"""Environment: 1 for a file system that offers no locks, where the user starts one command at a time."""

_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class HeldError(FmctError):
    """Another process is writing there; once it has ended, the same command works."""

    exit_code = 75
    """EX_TEMPFAIL of sysexits.h: a launcher may try again later."""


@contextmanager
def writing(folder: Path, what: str, shared: bool = False, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the output `folder`, which is made where it is missing, while `what` (a command) writes there.

    shared: beside others that are shared, such as the shares of an array of tasks, none of which writes
    another's files; alone otherwise. The lock ends with the process, however it ends.

    Raises HeldError, with who holds it, where another does after `wait_seconds`; FmctError where the file
    system has no locks, or the lock's file is a link.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = _open(folder / LOCK_NAME)
    try:
        if not _lock(descriptor, folder, shared, wait_seconds):
            raise HeldError(f"{folder}: {_holder(descriptor)} is writing there; wait for it, or end it")
        _sign(descriptor, what)
        yield
    finally:
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether a process holds `folder` now; False where none ever did, or where that cannot be known."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FmctError(f"{path}: is a link, where fmct keeps a file of its own; remove it") from None
        raise


def _lock(descriptor: int, folder: Path, shared: bool, wait_seconds: float) -> bool:
    """Whether the lock is held now."""
    if os.environ.get(WITHOUT) == "1":
        return True
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(min(2.0, wait_seconds))
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            why = os.strerror(error.errno or 0).lower()
            raise FmctError(
                f"{folder}: its file system has no locks ({why}); have it mounted with flock (Lustre: "
                f"-o flock), or set {WITHOUT}=1 and start one command at a time there"
            ) from None


def _sign(descriptor: int, what: str) -> None:
    """Say in the file who holds it."""
    holder = {"what": what, "pid": os.getpid(), "host": socket.gethostname(), "since": int(time.time())}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _holder(descriptor: int) -> str:
    """Who holds it, as far as its file says."""
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        what, pid, host = str(holder["what"]), int(holder["pid"]), str(holder["host"])
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(int(holder["since"])))
    except (ValueError, KeyError, TypeError, OverflowError):
        return "another process"
    return f"{what[:80]!a} (process {pid} on {host[:80]!a}, since {since})"
