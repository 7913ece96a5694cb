"""The cache of compiled code: a folder that no other user can write to.

Cached code is executed, so a folder is used only if its owner, its mode and its parent folders are safe. A
test write checks it. If no folder is usable, nothing is cached and code is compiled again.
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
"""Environment: the folder to try first."""

LIBRARIES = {
    "MPLCONFIGDIR": "matplotlib",
    "TRITON_HOME": "triton",
    "TRITON_CACHE_DIR": "triton/cache",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
}
"""Environment variable of each library, and its folder below ours; the libraries' default is the home."""

_INDUCTOR = "TORCHINDUCTOR_CACHE_DIR"

_CHOSEN = "FMCT_CACHE_CHOSEN"
"""Environment: the folder that was set for the libraries."""

TRIED_BYTES = 4096
"""A full disk still creates empty files, so the test file is not empty."""


@cache
def place() -> Path | None:
    """The first usable folder of `candidates`, created if missing; None if there is none."""
    for number, path in enumerate(candidates()):
        why = why_unusable(path)
        if why is None:
            return path
        if number == 0 and os.environ.get(VARIABLE) and _is_main_process():
            log.warning("%s is not used: %s", VARIABLE, why)
    return None


def candidates() -> list[Path]:
    """$FMCT_CACHE_DIR, $XDG_CACHE_HOME/fmct, ~/.cache/fmct and $TMPDIR/fmct-cache-UID, where defined.

    Relative paths are ignored, as in the XDG base directory specification: the working folder may not be
    trusted. The home is used only if the user owns it (sudo may keep another user's).
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


def why_unusable(path: Path) -> str | None:
    """Why a folder, created if missing, cannot be used; None if it can.

    It must be a folder, not a link, that belongs to this user; no other user may be able to write to it or
    to replace it in its parent folders; and it must have space for a file.
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


def _is_main_process() -> bool:
    """Whether this is not a pool's worker process: then the parent has already logged the warning."""
    from multiprocessing import parent_process

    return parent_process() is None


def set_for_libraries() -> None:
    """Set the cache folders of matplotlib, Triton and PyTorch extensions for this process and its children.

    The user's own settings are kept. Settings from another process of this package, perhaps on another node,
    are replaced. Without a usable folder, a temporary one is used and removed at the end.
    """
    inherited = os.environ.pop(_CHOSEN, None)
    for variable in LIBRARIES:
        if inherited and os.environ.get(variable, "").startswith(f"{inherited}/"):
            del os.environ[variable]
    if folder := place() or _passing():
        os.environ[_CHOSEN] = str(folder)
        for variable, name in LIBRARIES.items():
            os.environ.setdefault(variable, str(folder / name))


def set_for_inductor() -> None:
    """Set TorchInductor's cache folder to one on this node, unless the user set it; call before it compiles.

    It locks its files, and the home's file system may not support locks. Its default is a folder in /tmp
    under a name that any user can create first.
    """
    if not os.environ.get(_INDUCTOR):
        local = next((path for path in reversed(candidates()) if why_unusable(path) is None), None)
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
    """A new private folder, removed when this process ends; None if no temporary folder is writable."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="fmct-cache-"))
    except OSError:
        return None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
