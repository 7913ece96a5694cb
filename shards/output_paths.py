"""Checks, before the work starts, that an output can be written."""

import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile

from shards.errors import FmctError, refusal


def require_file(out: Path, *inputs: Path | None) -> None:
    """Raise FmctError if the file `out` is one of `inputs`, by any path, or cannot be written."""
    _require_other(out, inputs, "file")
    if os.path.exists(out) and not os.path.isfile(out):
        kind = "folder" if os.path.isdir(out) else "device"
        raise FmctError(f"{out}: is a {kind}; give a file")
    _require_writable(out.parent)


def require_folder(out: Path, *inputs: Path) -> None:
    """Raise FmctError if `out` is one of `inputs`, or is not and cannot become a writable folder."""
    _require_other(out, inputs, "folder")
    if os.path.exists(out) and not os.path.isdir(out):
        raise FmctError(f"{out}: is a file; give a folder")
    _require_writable(out)


def _require_other(out: Path, inputs: Iterable[Path | None], kind: str) -> None:
    for given in inputs:
        if given is not None and _is_same(out, given):
            raise FmctError(f"{out}: is the input {given}, which it would replace; give another {kind}")


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them does not exist
        return False


def _require_writable(folder: Path) -> None:
    """Test by writing to the folder, or to the parent to create it in: mode bits alone do not decide."""
    there = folder.absolute()
    while not os.path.exists(there):
        there = there.parent
    try:
        with TemporaryFile(dir=there):
            pass
    except FileNotFoundError:
        _require_writable(folder)  # it was just removed
    except OSError as error:
        error.filename = str(there)
        why = os.strerror(error.errno or 0).lower()
        raise refusal(error) or FmctError(f"{there}: {why}; give another path") from None
