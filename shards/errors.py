"""The one exception type that means "the user can mend this", and those of its kinds that are told apart."""

import errno
import os

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says where a disk or a quota is full."""


class FmctError(Exception):
    """An expected failure, told in one line that names the file or key and the remedy.

    The command line prints the message without a traceback and exits with `exit_code`;
    anything that is not an FmctError is a defect of ours and keeps its traceback.
    """

    exit_code = 2


class NoRoomError(FmctError):
    """A full disk or quota: once there is room, the same command goes on."""

    exit_code = 73
    """EX_CANTCREAT of sysexits.h: a launcher may try again later."""


class DamagedDataError(FmctError):
    """Volumes that fail their checks."""


class UnsoundError(FmctError):
    """A training that is not finite, or whose features collapse."""


_REMEDIES = {
    **dict.fromkeys(DISK_FULL, "make room and run the same command again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "get the right to it, or name another place"),
    errno.EROFS: "name a place that can be written to",
    errno.EISDIR: "name a file",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a file is where a folder has to be: name another place"),
}
"""What to do about a file that the system refuses; all else that it says is a defect of ours."""


def refusal(error: OSError) -> FmctError | None:
    """The one line for a refusal of the system's that the user can mend, with its exit code; None for others.

    It must bear the file's name, but for a full disk, which is nobody's defect.
    """
    remedy = _REMEDIES.get(error.errno or 0)
    name = error.filename2 or error.filename
    if remedy is None or not (isinstance(name, (str, bytes, os.PathLike)) or error.errno in DISK_FULL):
        return None
    file = os.fsdecode(name) if name else "an output cannot be written"
    kind = NoRoomError if error.errno in DISK_FULL else FmctError
    return kind(f"{file}: {os.strerror(error.errno or 0).lower()}; {remedy}")
