"""Checks of what a machine shared with others asks for: a home, private caches, locks that bind, modes."""

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from launch.doctor.finding import Finding, Judgement, fault, looked, note
from launch.program import PYTHON
from shards import caches, sharing
from shards.lock import WITHOUT, writing

_IS_HELD = "import sys, pathlib, shards.lock as l; sys.exit(l.is_held(pathlib.Path(sys.argv[1])))"


def look_at_surroundings() -> Iterator[Finding]:
    """What commands find on this machine, whatever they are given."""
    yield looked("home", home)
    yield looked("caches", cached)


def home() -> str | Judgement:
    """Whether the home takes files; nothing of ours has to be there."""
    named = os.environ.get("HOME")
    if not named:
        return note("HOME is not set", f"nothing, while {caches.VARIABLE} or TMPDIR takes what is cached")
    why = f"is user {os.stat(named).st_uid}'s" if os.path.isdir(named) else "is not there"
    if os.path.isdir(named) and os.stat(named).st_uid == os.getuid():
        try:
            with tempfile.TemporaryFile(dir=named) as file:
                file.write(bytes(caches.TRIED_BYTES))
                file.flush()
            return f"{named} is yours and takes files"
        except OSError as error:
            why = os.strerror(error.errno or 0).lower()
    return note(f"{named}: {why}", f"nothing, while {caches.VARIABLE} or TMPDIR takes what is cached")


def cached() -> str | Judgement:
    """Where compiled code is kept, which nobody else may be able to write to."""
    tried = [(path, caches.trouble(path)) for path in caches.candidates()]
    refused = "; ".join(why for _, why in tried if why)
    path = next((path for path, why in tried if why is None), None)
    if path is None:
        return note(
            f"no place: {refused}",
            f"set {caches.VARIABLE} to a folder of yours alone; until then each process compiles for itself",
        )
    if tried[0][1] and os.environ.get(caches.VARIABLE):
        return note(f"{path}, and not what {caches.VARIABLE} names: {refused}", "name another place in it")
    return f"{path}, writable by you alone"


def locks(folder: Path) -> str | Judgement:
    """Whether a lock of this process, in a folder of its own there, binds another process."""
    if os.environ.get(WITHOUT) == "1":
        return note(f"{WITHOUT}=1: two commands on one output ruin it", "start one at a time, or unset it")
    if not os.access(folder, os.W_OK):
        return note(f"{folder}: is not yours to write to, so nothing here locks it")
    trial = tempfile.TemporaryDirectory(prefix=".fmct-doctor-", dir=folder)
    with trial as place, writing(Path(place), "fmct doctor"):
        other = subprocess.run([*PYTHON, "-c", _IS_HELD, place]).returncode
    if not other:
        return fault(f"{folder}: a lock of one process does not bind another", "have it mounted with flock")
    return f"{folder}: a lock binds other processes"


def modes(folder: Path) -> str | Judgement:
    """Whether others may read, or even write, more of a folder than was chosen (shards.sharing)."""
    open_, writable, count = [], [], 0
    for path in (folder, *folder.rglob("*")):
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            continue
        count += 1
        if found.st_mode & stat.S_IWOTH:
            writable.append(path)
        if sharing.beyond(found.st_mode):
            open_.append(path)
    if writable:
        return fault(f"anybody can write to {len(writable)}: {writable[0]}", f"chmod -R o-w {folder}")
    if open_:
        return note(
            f"{len(open_)} of {count} files and folders are open to more than {sharing.chosen()}: {open_[0]}",
            f"chmod -R {sharing.closing()} {folder}, or {sharing.VARIABLE}=all if that is meant",
        )
    return f"none of {count} is open to more than {sharing.chosen()}"


def is_secret(file: Path) -> str | Judgement:
    """Whether a key file or a catalog, which hold identities, is its owner's alone."""
    found = file.lstat()
    if found.st_uid != os.getuid():
        return fault(f"{file} belongs to another user (uid {found.st_uid})", "use a copy of your own")
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return fault(f"{file} is open to others ({stat.filemode(found.st_mode)})", f"chmod 600 {file}")
    return f"{file} is yours alone"
