"""Marking pages and cards with their run, so that a report of another run does not overwrite them."""

import hashlib
import re
from pathlib import Path

from fmct_hpc.train.attempts import attempts
from shards.errors import FmctError

_STAMP = re.compile(r"<!-- fmct report of run ([0-9a-f]{16}) -->")


def run_id(run: Path) -> str:
    """16 hexadecimal digits that identify a run, unchanged when it is resumed or its folder is moved."""
    started = attempts(run)
    if started:
        first = started[0]
        identity = f"{first.began.isoformat()} {sorted(first.hosts)} {first.process}".encode()
    else:
        identity = (run / "config.json").read_bytes()
    return hashlib.sha256(identity).hexdigest()[:16]


def stamp(run: str) -> str:
    """The invisible comment at the end of a page."""
    return f"<!-- fmct report of run {run} -->"


def require_same_run(file: Path, run: str) -> None:
    """Raise FmctError if `file` exists and is not a report of the run with this `run_id`."""
    if not file.exists():
        return
    stamps = _STAMP.findall(file.read_text(errors="replace"))
    if stamps != [run]:
        problem = "is the report of another run" if stamps else "exists and is not the report of a run"
        raise FmctError(f"{file}: {problem}; use another file, or move it")
