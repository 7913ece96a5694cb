"""The progress of a stage's output folder, and of a job, from the ledgers that jobs have registered."""

import logging
from collections.abc import Iterable
from pathlib import Path

from launch.jobs.ledgers import LEDGERS, counter
from shards.errors import FmctError
from shards.progress import SUFFIX, Progress, Registered, registered
from shards.share import WHOLE, Share

log = logging.getLogger(__name__)

SEVERAL = "result"
"""The unit for ledgers of several kinds."""


def progress(folder: Path, share: Share = WHOLE) -> Progress | None:
    """The state of the ledger in a stage's output folder; None if it has none.

    If the folder's own files do not contain the numbers of units and of failed units, they are those that
    its jobs have registered (`slurm/*.ledgers.json`).
    """
    jobs = _registered_for(folder)
    shown = [name for name, kind in LEDGERS.items() if kind.sign and (folder / kind.sign).is_file()]
    for name in dict.fromkeys([*shown, *(one.ledger for one in jobs)]):
        if not (count := counter(name)):
            continue
        counted, own = count(folder, share), [one for one in jobs if one.ledger == name]
        of_all = max((one.of_all for one in own if one.of_all is not None), default=None)
        total = counted.total if counted.total is not None or share != WHOLE else of_all
        failed = sum(one.failed for one in own if share in (WHOLE, one.share))
        return _bounded(counted._replace(total=total, failed=failed))
    return None


def progress_of_job(records: Path, job: str) -> Progress:
    """The progress of a job or array task; `done` is None if it has registered nothing yet.

    records: the folder of the job's records; job: its number, 12 or 12_3.
    """
    return combined(_counted(one) for one in registered(records / f"{job}{SUFFIX}"))


def combined(parts: Iterable[Progress]) -> Progress:
    """The state of several ledgers, combined."""
    each = list(parts)
    if len(each) < 2:
        return each[0] if each else Progress(None)
    known = [one.done for one in each if one.done is not None]
    totals = [one.total for one in each if one.total is not None]
    units = {one.unit for one in each}
    return Progress(
        sum(known) if known else None,
        sum(totals) if totals and len(totals) == len(each) else None,
        sum(one.failed for one in each),
        units.pop() if len(units) == 1 else SEVERAL,
    )


def _counted(one: Registered) -> Progress:
    count, counted = counter(one.ledger), Progress(None)
    try:
        counted = count(Path(one.place), Share(*one.share)) if count else counted
    except (OSError, FmctError) as error:
        log.warning("%s: could not count finished units: %s", one.place, error)
    total = one.total if counted.total is None else counted.total
    return _bounded(counted._replace(total=total, failed=one.failed))


def _registered_for(folder: Path) -> list[Registered]:
    """The ledgers that jobs have registered for an output folder: per ledger and share, the newest job's."""
    newest: dict[tuple[str, tuple[int, int]], Registered] = {}
    files = [file for file in (folder / "slurm").glob(f"*{SUFFIX}") if _number(file) >= 0]
    for file in sorted(files, key=_number):
        for one in registered(file):
            if Path(one.place) == folder.absolute():
                newest[one.ledger, one.share] = one
    return list(newest.values())


def _number(file: Path) -> int:
    number = file.name.split("_")[0].split(".")[0]
    return int(number) if number.isdecimal() else -1


def _bounded(counted: Progress) -> Progress:
    """Limit `failed` to the units that are not done, since later jobs may have done the others."""
    if counted.total is None or counted.done is None:
        return counted
    return counted._replace(failed=min(counted.failed, max(0, counted.total - counted.done)))
