"""The stages of a folder as rows: state, units done, what each waits for, time left, job numbers."""

from collections.abc import Iterable
from typing import NamedTuple

from fmct_hpc.train.pace import duration
from launch.jobs.stage_progress import done_text, seconds_left, units_done
from launch.jobs.watch import Overview
from launch.scheduler import ENDED, JobFacts

ORDER = (
    *("scan", "labels", "plan", "preprocess", "collect", "split", "train", "probe", "report"),
    *("sweep-plan", "features", "features-joined", "sweep", "swept", "predict", "predicted"),
)
"""Stages in the order of the pipeline; jobs of other names follow."""


class Row(NamedTuple):
    """One stage, by its last job; all as text, empty if unknown or without meaning."""

    stage: str
    state: str
    done: str
    """Units done, of the total."""
    waits: str
    """Stages that must end first, otherwise why the job is pending."""
    left: str
    """Time left at the pace of this job."""
    jobs: str
    """The job's number, and how often it was queued again."""


def stage_rows(overviews: Iterable[Overview]) -> list[Row]:
    """The stages of these folders in their order, each by its last job; earlier jobs are left out."""
    shown = list(overviews)
    stages = {number: _stage(name) for overview in shown for number, name in overview.names.items()}
    rows = [
        (number, _row(overview, name, number, stages))
        for overview in shown
        for name, number in overview.newest.items()
    ]
    places = {stage: place for place, stage in enumerate(ORDER)}
    rows.sort(key=lambda row: (places.get(row[1].stage, len(ORDER)), int(row[0])))
    return [row for _, row in rows]


def _stage(name: str) -> str:
    return name.removeprefix("fmct-")


def _row(overview: Overview, name: str, number: str, stages: dict[str, str]) -> Row:
    stage, jobs = _stage(name), [job for job in overview.jobs if job.array == number]
    state = _state(overview, number, jobs)
    done = units_done(overview, stage, number, jobs)
    pending = [job for job in jobs if job.state == "PENDING"]
    needed = dict.fromkeys(stages.get(n, f"job {n}") for job in pending for n in job.waits)
    reasons = [job.reason for job in pending if job.reason and not (job.waits and job.reason == "Dependency")]
    left = seconds_left(overview, stage, jobs, done) if state.startswith("running") else None
    again = sum(job.restarts for job in jobs) or _requeues(overview, number)
    return Row(
        stage,
        state,
        done_text(done),
        ", ".join(dict.fromkeys([*needed, *reasons])),
        "" if left is None else duration(left),
        f"{number}, queued again {again}x" if again else number,
    )


def _state(overview: Overview, number: str, jobs: list[JobFacts]) -> str:
    alive = [job for job in jobs if job in overview.alive]
    failed = [ends[-1].cause for job, ends in overview.given_up.items() if job.split("_")[0] == number]
    why = f" ({', '.join(dict.fromkeys(failed))})" if failed else ""
    if alive:
        state = "pending" if all(job.state == "PENDING" for job in alive) else "running"
        return f"{state}, {len(failed)} of its tasks failed{why}" if failed else state
    if failed:
        return f"failed{why}"
    newest = overview.attempts[-1:]
    if newest and newest[0].slurm and newest[0].slurm.job == number and newest[0].cause:
        return newest[0].cause
    last = {job.job: job.state for job in overview.past if job.job.split("_")[0] == number}
    last |= {job.job: job.state for job in jobs}
    causes = dict.fromkeys(ENDED.get(state, state.lower()) for state in last.values())
    if causes:
        return ", ".join(causes)
    return "done" if overview.job_names[number] in _marked(overview) else "unknown"


def _marked(overview: Overview) -> set[str]:
    """Names of the pipeline's jobs that have a marker of success."""
    places = (overview.folder / "done", overview.folder.parent / "done")
    return {path.name.split(".")[0] for place in places if place.is_dir() for path in place.iterdir()}


def _requeues(overview: Overview, number: str) -> int:
    """How often a job unknown to the scheduler was queued again, from the records of its endings."""
    return sum(
        len(ends) - (job in overview.given_up)
        for job, ends in overview.endings.items()
        if job.split("_")[0] == number
    )
