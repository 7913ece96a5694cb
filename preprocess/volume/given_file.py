"""A file named in a row of a user's table."""

import errno
import os
from pathlib import Path

from preprocess.reasons import Reason, Rejection
from shards.errors import raise_refusal


def file_status(path: Path) -> os.stat_result:
    """The status of a row's file; raises Rejection if it is missing, unreadable or empty."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise Rejection(Reason.MISSING_FILE, "no such file; correct its path") from None
    except PermissionError:
        raise Rejection(Reason.UNREADABLE_FILE, "no permission to read the file; get it") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):  # of this row alone
            why = "a link to itself, or a name longer than the system allows"
            raise Rejection(Reason.MISSING_FILE, f"{why}; correct its path") from None
        raise_refusal(error, path)
        raise
    if not path.is_file():
        raise Rejection(Reason.MISSING_FILE, "not a regular file; give one")
    if not os.access(path, os.R_OK):
        raise Rejection(Reason.UNREADABLE_FILE, "no permission to read the file; get it")
    if not status.st_size:
        raise Rejection(Reason.EMPTY_FILE, "0 bytes; copy it again")
    return status
