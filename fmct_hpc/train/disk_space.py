"""Reserve disk space before it is needed, so that a full disk is noticed before work is lost."""

import ctypes
import errno
import os
from pathlib import Path

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def reserve_space(path: Path, size: int) -> bool:
    """Create the file `path` with `size` zero bytes of allocated disk space.

    Returns False, with an empty file, if the file system does not support it (NFS before 4.2, CephFS). Raises
    OSError if the disk or quota is full.

    This calls fallocate(2): posix_fallocate(3) would instead write a byte to each block, which NFS keeps in
    memory, so that no space is reserved.
    """
    with path.open("xb") as file:
        while _fallocate(file.fileno(), 0, 0, size):
            number = ctypes.get_errno()
            if number in (errno.EOPNOTSUPP, errno.ENOSYS):
                return False
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number))
    return True
