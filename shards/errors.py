"""The exception type for errors that the user can fix, and its subtypes."""

import errno
import os

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk or quota."""


class FmctError(Exception):
    """An expected failure, reported in one line that names the file or key and the remedy.

    The command line prints the message without a traceback and exits with `exit_code`;
    anything that is not an FmctError is a bug and keeps its traceback.
    """

    exit_code = 2


class RefusedError(FmctError):
    """The system cannot read or write a file: its bytes are unknown, so this is not damage."""

    number: int = 0
    """The system's error number (errno), if known."""


class DiskFullError(RefusedError):
    """A full disk or quota: the same command resumes once there is space."""

    exit_code = 73
    """EX_CANTCREAT of sysexits.h: a launcher may try again later."""


class UnavailableError(RefusedError):
    """A failing disk or file server, or a lack of memory or of open files."""

    exit_code = 74
    """EX_IOERR of sysexits.h: later, or on another node, the same command may succeed."""


class DamagedDataError(FmctError):
    """Volumes that fail their checks."""


class LostProcessError(FmctError):
    """A child process died or was killed by the system."""

    exit_code = 71
    """EX_OSERR of sysexits.h: the cause may be outside this job; a launcher may try again."""


class UnhealthyRunError(FmctError):
    """Training with non-finite values, or with collapsed features."""


_FAILS = (
    *(errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.ESHUTDOWN),
    *(errno.ENODEV, errno.ENXIO, errno.EHOSTDOWN, errno.ECONNRESET, errno.ECONNREFUSED, errno.EUCLEAN),
)
"""Error numbers of a failing disk or file server."""
SCARCE = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""Error numbers for any file when the process or the machine is out of memory or of open files."""

_REMEDIES = {
    **dict.fromkeys(DISK_FULL, "free some space and rerun the same command"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "get permission to use it, or give another path"),
    errno.EROFS: "give a writable path",
    errno.EISDIR: "give a file",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a file is where a folder should be: give another path"),
    errno.ELOOP: "give a file or folder, not a link",
    errno.ENAMETOOLONG: "give a shorter path",
    **dict.fromkeys(_FAILS, "check the disk or the file server, then rerun the same command"),
    errno.ENOMEM: "request more memory, or use fewer workers",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
}
"""The remedy for each system error on a file; any other error is a bug."""

_OF_BYTES = (None, errno.EINVAL, errno.EOVERFLOW, errno.ENOENT)
"""Numbers of an OSError that a missing file or damaged bytes can cause: a parser's own error has no number,
and a damaged offset is outside the file."""

_NO_TEMPORARY = "temporary directory"
"""Part of the message of Python's tempfile, or matplotlib, when no folder is writable."""


def refusal_kind(error: OSError) -> type[RefusedError]:
    """The exception type for a system error, for callers with their own message."""
    if error.errno in DISK_FULL:
        return DiskFullError
    return UnavailableError if error.errno in (*_FAILS, *SCARCE) else RefusedError


def refusal(error: BaseException) -> RefusedError | None:
    """The one-line error, with exit code, for a system failure that the user can fix; None for others.

    The error must name the file, unless a disk is full or memory or open files run out.
    """
    if isinstance(error, MemoryError):
        return UnavailableError(f"out of memory ({error}): {_REMEDIES[errno.ENOMEM]}".replace(" ()", ""))
    if not isinstance(error, OSError):
        return None
    if _NO_TEMPORARY in str(error):
        return RefusedError("no writable folder for temporary files: set TMPDIR to one")
    number = error.errno or 0
    remedy = _REMEDIES.get(number)
    name = error.filename2 or error.filename
    named = isinstance(name, (str, bytes, os.PathLike))
    if remedy is None or not (named or number in (*DISK_FULL, *SCARCE)):
        return None
    unnamed = "an output cannot be written" if number in DISK_FULL else "a file cannot be accessed"
    subject = os.fsdecode(name) if named else unnamed
    refused = refusal_kind(error)(f"{subject}: {os.strerror(number).lower()}; {remedy}")
    refused.number = number
    return refused


def raise_refusal(error: BaseException, path: str | os.PathLike[str]) -> None:
    """Raise the RefusedError of a system error in reading `path`; return if the file's bytes are the cause.

    Call this before treating an exception as damage or as a missing file.
    """
    if isinstance(error, RefusedError):
        raise error
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in _OF_BYTES):
        if isinstance(error, OSError) and error.filename is None:
            error.filename = os.fspath(path)
        raise refusal(error) or error from None
