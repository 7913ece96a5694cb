"""Checks for machines shared with other users: home directory, private caches, locks, file modes."""

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from launch.doctor.finding import Finding, Problem, fault, note, run_check
from launch.program import PYTHON
from shards import caches, sharing
from shards.lock import WITHOUT, writing

IS_HELD = "import sys, pathlib, shards.lock as l; sys.exit(l.is_held(pathlib.Path(sys.argv[1])))"


def check_environment() -> Iterator[Finding]:
    """Checks of this machine that apply to all commands."""
    yield run_check("home", home)
    yield run_check("caches", cached)


def home() -> str | Problem:
    """Check whether the home directory is writable, which is not required."""
    named = os.environ.get("HOME")
    if not named:
        return note("HOME is not set", f"none, if {caches.VARIABLE} or TMPDIR can hold the cache")
    why = f"belongs to user {os.stat(named).st_uid}" if os.path.isdir(named) else "does not exist"
    if os.path.isdir(named) and os.stat(named).st_uid == os.getuid():
        try:
            with tempfile.TemporaryFile(dir=named) as file:
                file.write(bytes(caches.TRIED_BYTES))
                file.flush()
            return f"{named} is yours and writable"
        except OSError as error:
            why = os.strerror(error.errno or 0).lower()
    return note(f"{named}: {why}", f"none, if {caches.VARIABLE} or TMPDIR can hold the cache")


def cached() -> str | Problem:
    """Check the cache of compiled code, which nobody else may be able to write to."""
    candidates = [(path, caches.why_unusable(path)) for path in caches.candidates()]
    refused = "; ".join(why for _, why in candidates if why)
    path = next((path for path, why in candidates if why is None), None)
    if path is None:
        return note(
            f"no usable folder: {refused}",
            f"set {caches.VARIABLE} to a folder that only you can write to; otherwise each process compiles",
        )
    if candidates[0][1] and os.environ.get(caches.VARIABLE):
        return note(f"{path}, not the folder in {caches.VARIABLE}: {refused}", "set it to another folder")
    return f"{path}, writable only by you"


def locks(folder: Path) -> str | Problem:
    """Check whether a lock of this process, in a subfolder of `folder`, is respected by another process."""
    if os.environ.get(WITHOUT) == "1":
        return note(
            f"{WITHOUT}=1: two commands on one output corrupt it", "run one command at a time, or unset it"
        )
    if not os.access(folder, os.W_OK):
        return note(f"{folder}: not writable, so locks were not tested")
    trial = tempfile.TemporaryDirectory(prefix=".fmct-doctor-", dir=folder)
    with trial as place, writing(Path(place), "fmct doctor"):
        other = subprocess.run([*PYTHON, "-c", IS_HELD, place]).returncode
    if not other:
        return fault(f"{folder}: locks do not work between processes", "have it mounted with flock")
    return f"{folder}: locks work between processes"


def modes(folder: Path) -> str | Problem:
    """Check whether others can read or write more of a folder than configured (shards.sharing)."""
    open_, writable, count = [], [], 0
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            continue
        count += 1
        if status.st_mode & stat.S_IWOTH:
            writable.append(path)
        if sharing.beyond(status.st_mode):
            open_.append(path)
    if writable:
        return fault(f"{len(writable)} are writable by everybody: {writable[0]}", f"chmod -R o-w {folder}")
    if open_:
        return note(
            f"{len(open_)} of {count} files and folders are open to more than {sharing.chosen()}: {open_[0]}",
            f"chmod -R {sharing.closing()} {folder}, or {sharing.VARIABLE}=all if this is intended",
        )
    return f"none of {count} files and folders is open to more than {sharing.chosen()}"


def is_secret(file: Path) -> str | Problem:
    """Check whether a key file or a catalog, which identify patients, is private to its owner."""
    status = file.lstat()
    if status.st_uid != os.getuid():
        return fault(f"{file} belongs to another user (uid {status.st_uid})", "use a copy of your own")
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return fault(f"{file} is open to others ({stat.filemode(status.st_mode)})", f"chmod 600 {file}")
    return f"{file} is accessible only by you"
