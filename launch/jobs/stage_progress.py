"""Finished units of a stage, and the time left."""

import time
from pathlib import Path

from fmct_hpc.train.attempts import last_figures
from launch.jobs.ledgers import of_stage
from launch.jobs.progress import combined, progress, progress_of_job
from launch.jobs.watch import Overview
from launch.scheduler import JobFacts
from shards.progress import SUFFIX, Progress


def units_done(overview: Overview, stage: str, number: str, jobs: list[JobFacts]) -> Progress | None:
    """Units of a stage, whose last job is `number`; array tasks if it has no ledger; None if unknown."""
    if stage == "train" and overview.attempts:
        step = last_figures(overview.folder).get("step", 0)
        return Progress(int(step), overview.attempts[-1].configuration["run"]["steps"], unit="step")
    records = overview.folder / "slurm"
    own = [path.name.removesuffix(SUFFIX) for path in records.glob(f"{number}*{SUFFIX}")]
    registered = [job for job in own if job.split("_")[0] == number]
    counted = progress(overview.folder) if of_stage(stage) else None
    if counted is None and registered and not any("_" in job for job in registered):
        counted = combined(progress_of_job(records, job) for job in registered)
    if counted is not None and counted.done is not None:
        return counted
    tasks = sum(_tasks(job) for job in jobs)
    return Progress(sum(job.state == "COMPLETED" for job in jobs), tasks, unit="task") if tasks > 1 else None


def _tasks(job: JobFacts) -> int:
    """Number of tasks in a record: four in 12_[4-6,9]."""
    _, bracket, listed = job.job.partition("_[")
    if not bracket:
        return 1
    ends = [part.split("-") for part in listed.rstrip("]").split(",") if part[:1].isdigit()]
    return sum(int(end[-1].split(":")[0]) - int(end[0]) + 1 for end in ends)


def done_text(done: Progress | None) -> str:
    """Progress as text: 4 of 16 tasks, 1 failed."""
    if done is None or done.done is None:
        return ""
    failed = f", {done.failed:,} failed" if done.failed else ""
    if done.total is None:
        return f"{done.done:,} {done.unit}s{failed}"
    return f"{done.done:,} of {done.total:,} {done.unit}s{failed}"


def seconds_left(overview: Overview, stage: str, jobs: list[JobFacts], done: Progress | None) -> float | None:
    """Seconds left, at the rate of units since the job's start."""
    if done is None or done.done is None or done.total is None:
        return None
    starts = [job.start for job in jobs if job.start and job.state != "PENDING"]
    began = min(starts).timestamp() if starts else None
    made, now = 0, time.time()
    if stage == "train" and overview.attempts:
        newest = overview.attempts[-1]
        began, made = newest.began.timestamp(), done.done - newest.first_step + 1
        now = _changed(overview.folder / "metrics.jsonl") or now
    elif began is not None and (kind := of_stage(stage)):
        made = sum((_changed(path) or 0) >= began for path in kind.finished(overview.folder))
    elif began is not None:
        made = done.done
    rest = done.total - done.done
    return None if began is None or made < 1 or now <= began else (now - began) / made * rest


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
