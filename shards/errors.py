"""The exception type for errors that the user can fix, and its subtypes."""

import errno
import os

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says where a disk or a quota is full."""


class FmctError(Exception):
    """An expected failure, reported in one line that names the file or key and the remedy.

    The command line prints the message without a traceback and exits with `exit_code`;
    anything that is not an FmctError is a bug and keeps its traceback.
    """

    exit_code = 2


class RefusedError(FmctError):
    """A file that the system does not read or write: nothing is known of its bytes, so it is not damage."""

    number: int = 0
    """What the system said (errno), where it did."""


class NoRoomError(RefusedError):
    """A full disk or quota: once there is space, the same command resumes."""

    exit_code = 73
    """EX_CANTCREAT of sysexits.h: a launcher may try again later."""


class UnavailableError(RefusedError):
    """A failing disk or file server, or a lack of memory or of open files."""

    exit_code = 74
    """EX_IOERR of sysexits.h: later, or on another node, the same command may succeed."""


class DamagedDataError(FmctError):
    """Volumes that fail their checks."""


class LostProcessError(FmctError):
    """A child process that was killed by the system, or that died."""

    exit_code = 71
    """EX_OSERR of sysexits.h: it may be another's doing, and a launcher may try again."""


class UnsoundError(FmctError):
    """A training that is not finite, or whose features collapse."""


_FAILS = (
    *(errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.ESHUTDOWN),
    *(errno.ENODEV, errno.ENXIO, errno.EHOSTDOWN, errno.ECONNRESET, errno.ECONNREFUSED, errno.EUCLEAN),
)
"""What the system says where a disk, or the server of a file system, does not do its part."""
SCARCE = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""What it says of any file where the process, or the machine, has run out of memory or of open files."""

_REMEDIES = {
    **dict.fromkeys(DISK_FULL, "free some space and run the same command again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "get permission for it, or give another path"),
    errno.EROFS: "give a writable path",
    errno.EISDIR: "give a file",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a file is in the place of a folder: give another path"),
    errno.ELOOP: "give a file or folder, not a link",
    **dict.fromkeys(_FAILS, "check the disk or the file server, then run the same command again"),
    errno.ENOMEM: "give it more memory, or use fewer workers",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
}
"""The remedy for each error of the system on a file; any other error is a bug."""

_OF_BYTES = (None, errno.EINVAL, errno.EOVERFLOW, errno.ENOENT)
"""Numbers of an OSError that the bytes of a file, or its absence, may bring about: a parser's own has none,
and a damaged offset is no place in a file."""

_NO_TEMPORARY = "temporary directory"
"""In what Python's tempfile, or matplotlib, says where no folder takes temporary files."""


def refusal_kind(error: OSError) -> type[RefusedError]:
    """The exception type for an error of the system, for callers with their own message."""
    if error.errno in DISK_FULL:
        return NoRoomError
    return UnavailableError if error.errno in (*_FAILS, *SCARCE) else RefusedError


def refusal(error: BaseException) -> RefusedError | None:
    """The one-line error for a failure of the system that the user can fix, with exit code; None for others.

    It must have the file's name, except if a disk is full or memory or open files run out.
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
    what = os.fsdecode(name) if named else unnamed
    told = refusal_kind(error)(f"{what}: {os.strerror(number).lower()}; {remedy}")
    told.number = number
    return told


def raise_refusal(error: BaseException, path: str | os.PathLike[str]) -> None:
    """Raise an error of the system in reading the file `path`; return if it is caused by the bytes.

    To be called before an exception is treated as damage, or as a missing file.
    """
    if isinstance(error, RefusedError):
        raise error
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in _OF_BYTES):
        if isinstance(error, OSError) and error.filename is None:
            error.filename = os.fspath(path)
        raise refusal(error) or error from None
