"""Running code with restrictions: read-only or full file systems, no home directory, no root privileges."""

import ctypes
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

_CONFINE = """
set -eu
{mounts}
cd "$1"; shift
exec setpriv --bounding-set=-all --inh-caps=-all "$@"
"""


@cache
def _mounts() -> bool:
    """Whether private mounts can be created here."""
    programs = all(map(shutil.which, ("unshare", "setpriv", "mount")))
    return programs and not subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode


def confined(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    read_only: Sequence[Path] = (),
    full: Sequence[Path] = (),
    writable: Sequence[Path] = (),
    shared_memory_kib: int | None = None,
    known: bool = True,
    environment: Mapping[str, str | None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command without capabilities, so that file modes apply to it as to any user.

    The test is skipped if mounts cannot be created; as root in CI it fails instead.

    Args:
        command: the command line.
        cwd: its working folder.
        read_only: folders that are read-only, with their contents on the same file system, except `writable`.
        full: folders that are replaced by a full file system.
        writable: folders that stay writable.
        shared_memory_kib: size of /dev/shm.
        known: whether the user has an entry in /etc/passwd.
        environment: changes; None unsets.
    """
    if not _mounts():
        (pytest.fail if os.environ.get("CI") == "true" and os.getuid() == 0 else pytest.skip)(
            "no mounts here"
        )
    quote = "'{}'".format
    mounts = [f"mount --bind {quote(path)} {quote(path)}" for path in writable]
    for path in read_only:
        # Recursive, so that the writable folders below stay.
        mounts += [f"mountpoint -q {quote(path)} || mount --rbind {quote(path)} {quote(path)}"]
        mounts += [f"mount -o remount,bind,ro {quote(path)}"]
    for path in full:
        mounts += [f"mount -t tmpfs -o size=4k none {quote(path)}", f"head -c 4096 /dev/zero > {path}/fill"]
    if shared_memory_kib is not None:
        mounts.append(f"mount -t tmpfs -o size={shared_memory_kib}k none /dev/shm")
    if not known:
        mounts.append("mount --bind /dev/null /etc/passwd")
    changed = dict(os.environ) | {"PYTHONDONTWRITEBYTECODE": "1"} | dict(environment or {})
    return subprocess.run(
        ["unshare", "--mount", "bash", "-c", _CONFINE.format(mounts="\n".join(mounts)), "-", cwd, *command],
        env={name: value for name, value in changed.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=250,
    )


def fmct(*arguments: str | Path) -> list[str | Path]:
    """The command line of this environment's `fmct`."""
    return [Path(sys.executable).with_name("fmct"), *arguments]


def outcome(work: Callable[[], object], *, open_files: int | None = None) -> str:
    """The outcome of `work` in a process without root privileges: "done", or the class and text of its error.

    open_files: how many more files it may open.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        result = "died"
        try:
            _give_up_rights()
            if open_files is not None:
                _leave_descriptors(open_files)
            work()
            result = "done"
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        finally:
            os.write(write, result.encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        result = stream.read()
    os.waitpid(child, 0)
    return result


def obey_permissions() -> None:
    """File modes apply to this process from now on, and to programs that it starts, as to any user's."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: capabilities(7)
            if libc.prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
                raise OSError(ctypes.get_errno(), "prctl")
        _give_up_rights()


def _give_up_rights() -> None:
    """Drop all capabilities (capset(2), version 3), so that file modes apply to root as to any user."""
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")


def _leave_descriptors(count: int) -> None:
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + count, free + count))
