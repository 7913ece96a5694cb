"""Which run a page or card is about, so that a report of another one does not take its place."""

import hashlib
import re
from pathlib import Path

from fmct_hpc.train.attempts import attempts
from shards.errors import FmctError

_STAMP = re.compile(r"<!-- fmct report of run ([0-9a-f]{16}) -->")


def run_id(run: Path) -> str:
    """16 hexadecimal digits that stay a run's own when it goes on, or its folder moves."""
    started = attempts(run)
    if started:
        first = started[0]
        told = f"{first.began.isoformat()} {sorted(first.hosts)} {first.process}".encode()
    else:
        told = (run / "config.json").read_bytes()
    return hashlib.sha256(told).hexdigest()[:16]


def stamp(run: str) -> str:
    """What stands at the end of a page, and shows nowhere."""
    return f"<!-- fmct report of run {run} -->"


def require_same_run(file: Path, run: str) -> None:
    """Raise FmctError where `file` is something else than a report of the run `run_id`."""
    if not file.exists():
        return
    found = _STAMP.findall(file.read_text(errors="replace"))
    if found != [run]:
        what = "the report of another run" if found else "there already, and no report that says of which run"
        raise FmctError(f"{file}: is {what}; name another file, or move it away")
