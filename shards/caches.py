"""The cache of compiled code: a folder to which no other user can write.

Code from there is executed, so a folder is used only if its owner, its mode and the folders above it are
safe. It is tested by writing; if no folder can be used, nothing is cached, which costs the time to compile.
"""

import atexit
import logging
import os
import pwd
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from shards.errors import FmctError
from shards.private import require_own

log = logging.getLogger(__name__)

VARIABLE = "FMCT_CACHE_DIR"
"""Environment: the place that is tried first."""

_LIBRARIES = {
    "MPLCONFIGDIR": "matplotlib",
    "TRITON_HOME": "triton",
    "TRITON_CACHE_DIR": "triton/cache",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
}
"""Environment: the variable of each library for its folder below ours; by default theirs are in the home."""

_INDUCTOR = "TORCHINDUCTOR_CACHE_DIR"

_CHOSEN = "FMCT_CACHE_CHOSEN"
"""Environment: the folder that was set for them."""

TRIED_BYTES = 4096
"""A full disk still makes empty files."""


@cache
def place() -> Path | None:
    """The first of `candidates` that can be used, created if missing; None if there is none."""
    for number, path in enumerate(candidates()):
        why = trouble(path)
        if why is None:
            return path
        if number == 0 and os.environ.get(VARIABLE) and _began_by_itself():
            log.warning("%s is not used: %s", VARIABLE, why)
    return None


def candidates() -> list[Path]:
    """$FMCT_CACHE_DIR, $XDG_CACHE_HOME/fmct, ~/.cache/fmct, and $TMPDIR/fmct-cache-UID, those that are known.

    No relative path, as the XDG base directory specification has it: what is below the working folder is not
    ours. The home counts only if it is the user's own (sudo may leave another's).
    """
    environment = os.environ.get
    scratch = environment("TMPDIR") or "/tmp"
    named = [
        environment(VARIABLE),
        f"{xdg}/fmct" if (xdg := environment("XDG_CACHE_HOME")) else None,
        f"{home}/.cache/fmct" if (home := _home()) else None,
        f"{scratch}/fmct-cache-{os.getuid()}" if os.path.isdir(scratch) else None,
    ]
    return [Path(path) for path in named if path and path.startswith("/")]


def trouble(path: Path) -> str | None:
    """Why a folder, which is created if needed, cannot be used; None if it can.

    It has to be a folder and no link, ours, writable by no one else, and below folders in which no one
    else can replace it; and it must have space for a file.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        require_own(path, group=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(TRIED_BYTES))
            file.flush()
    except FmctError as error:
        return str(error)
    except OSError as error:
        return f"{path}: {os.strerror(error.errno or 0).lower()}"
    return None


def _began_by_itself() -> bool:
    """Whether this is no process of a pool, whose parent has said it already."""
    from multiprocessing import parent_process

    return parent_process() is None


def set_for_libraries() -> None:
    """Have matplotlib, Triton and PyTorch's extensions, here and in what is started, keep files below ours.

    Values set by the user are kept; values set by another process of this package, perhaps on another
    node, are chosen again. Without a usable folder they get one that is removed at the end.
    """
    inherited = os.environ.pop(_CHOSEN, None)
    for variable in _LIBRARIES:
        if inherited and os.environ.get(variable, "").startswith(f"{inherited}/"):
            del os.environ[variable]
    if folder := place() or _passing():
        os.environ[_CHOSEN] = str(folder)
        for variable, name in _LIBRARIES.items():
            os.environ.setdefault(variable, str(folder / name))


def set_for_inductor() -> None:
    """Have TorchInductor keep its files on this node, unless the user has set where; before it compiles.

    It locks them, which a home's file system may not offer. By default they are in /tmp under a
    name that any user can create first.
    """
    if not os.environ.get(_INDUCTOR):
        local = next((path for path in reversed(candidates()) if trouble(path) is None), None)
        if folder := local or _passing():
            os.environ[_INDUCTOR] = str(folder / "inductor")


def _home() -> str | None:
    """The user's own home; None where the user has none."""
    try:
        home = os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir
        return home if os.stat(home).st_uid == os.getuid() else None
    except (KeyError, OSError):
        return None


def _passing() -> Path | None:
    """A new private folder, removed at this process's end; None where temporary files have no place."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="fmct-cache-"))
    except OSError:
        return None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
