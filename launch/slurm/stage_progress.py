"""How many units of a stage are done, and how long the rest takes."""

import time
from pathlib import Path

from fmct_hpc.train.attempts import last_figures
from launch.scheduler import JobFacts
from launch.slurm.progress import progress, progress_of_job, together
from launch.slurm.watch import Picture
from shards.progress import SUFFIX, Progress

UNITS = "units/*.json"
LEDGERS = {"train": "", "preprocess": "tasks/*-????????.json", "sweep": UNITS, "probe": UNITS}
"""Stages whose output folder has a ledger, and its markers, by whose times the pace is measured."""


def done_of(picture: Picture, stage: str, number: str, jobs: list[JobFacts]) -> Progress | None:
    """Units of a stage, whose last job is `number`; array tasks if it has no ledger; None if unknown."""
    if stage == "train" and picture.attempts:
        step = last_figures(picture.folder).get("step", 0)
        return Progress(int(step), picture.attempts[-1].configuration["run"]["steps"], unit="step")
    records = picture.folder / "slurm"
    own = [path.name.removesuffix(SUFFIX) for path in records.glob(f"{number}*{SUFFIX}")]
    registered = [job for job in own if job.split("_")[0] == number]
    found = progress(picture.folder) if stage in LEDGERS else None
    if found is None and registered and not any("_" in job for job in registered):
        found = together(progress_of_job(records, job) for job in registered)
    if found is not None and found.done is not None:
        return found
    tasks = sum(_tasks(job) for job in jobs)
    return Progress(sum(job.state == "COMPLETED" for job in jobs), tasks, unit="task") if tasks > 1 else None


def _tasks(job: JobFacts) -> int:
    """Tasks of a record: of 12_[4-6,9] four."""
    _, bracket, listed = job.job.partition("_[")
    if not bracket:
        return 1
    ends = [part.split("-") for part in listed.rstrip("]").split(",") if part[:1].isdigit()]
    return sum(int(end[-1].split(":")[0]) - int(end[0]) + 1 for end in ends)


def of_all(done: Progress | None) -> str:
    """As it is shown: 4 of 16 tasks, 1 failed."""
    if done is None or done.done is None:
        return ""
    failed = f", {done.failed:,} failed" if done.failed else ""
    if done.total is None:
        return f"{done.done:,} {done.unit}s{failed}"
    return f"{done.done:,} of {done.total:,} {done.unit}s{failed}"


def seconds_left(picture: Picture, stage: str, jobs: list[JobFacts], done: Progress | None) -> float | None:
    """Seconds left, if the rest takes as long per unit as what was made since the job's start."""
    if done is None or done.done is None or done.total is None:
        return None
    starts = [job.start for job in jobs if job.start and job.state != "PENDING"]
    began = min(starts).timestamp() if starts else None
    made, now = 0, time.time()
    if stage == "train" and picture.attempts:
        newest = picture.attempts[-1]
        began, made = newest.began.timestamp(), done.done - newest.first_step + 1
        now = _changed(picture.folder / "metrics.jsonl") or now
    elif began is not None and (pattern := LEDGERS.get(stage)):
        made = sum((_changed(path) or 0) >= began for path in picture.folder.glob(pattern))
    elif began is not None:
        made = done.done
    rest = done.total - done.done
    return None if began is None or made < 1 or now <= began else (now - began) / made * rest


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
