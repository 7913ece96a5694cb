"""Atomic file writes: a killed process leaves either the old file or the new one, complete."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def atomic_path(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit sync it and rename it to `path`.

    The temporary path is a new empty file under an unguessable name, so that no link of another user is
    followed. A link at `path` itself is replaced, not followed. mode: of the file, before the umask. The
    caller closes the file before the exit. On an exception it is removed and `path` is unchanged; an OSError
    that names the temporary path, or no path, is changed to name `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
    try:
        os.close(create(temporary, mode))
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException as error:
        with suppress(FileNotFoundError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno and _name(error) in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise


def create(path: Path, mode: int = 0o666) -> int:
    """Create a file and return its read-write descriptor; FileExistsError if the path exists, even as a link.

    mode: before the umask.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def _name(error: OSError) -> object:
    """The file name in an error; for a rename or link, the new name."""
    return error.filename2 or error.filename


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically and durably."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` atomically and durably."""
    write_bytes(path, text.encode())


def sync(path: Path) -> None:
    """Flush a file's or a directory's data to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
