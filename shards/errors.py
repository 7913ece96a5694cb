"""The one exception type that means "the user can mend this", and those of its kinds that are told apart."""

import errno

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
