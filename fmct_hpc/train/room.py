"""Room on a file system, taken before it is needed: a shortage shows while nothing is lost by it."""

import ctypes
import errno
import os
from pathlib import Path

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def take_room(path: Path, size: int) -> bool:
    """Make the file `path`, of `size` zero bytes, whose room nobody else can have from now on.

    Returns False, with an empty file, where the file system takes none beforehand (NFS before 4.2, CephFS).
    Raises OSError where disk or quota is full.

    This is fallocate(2) itself: posix_fallocate(3) would make up for it there by a byte in each block,
    which NFS keeps in memory, so that nothing is taken.
    """
    with path.open("xb") as file:
        while _fallocate(file.fileno(), 0, 0, size):
            number = ctypes.get_errno()
            if number in (errno.EOPNOTSUPP, errno.ENOSYS):
                return False
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number))
    return True
