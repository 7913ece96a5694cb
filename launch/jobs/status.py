"""The output of `fmct launch status`: tables on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from fmct_hpc.train.attempts import Attempt, last_figures
from fmct_hpc.train.checkpoint import newest_step
from fmct_hpc.train.pace import duration
from launch.jobs.requeue import Ending
from launch.jobs.stage_table import stage_rows
from launch.jobs.watch import Overview, overviews_of, state_of
from launch.scheduler import Scheduler
from launch.screen import echo

SILENT_SECONDS = 60.0
"""After this long without a step, the time since the last one is shown."""


def status(folder: Path, scheduler: Scheduler) -> None:
    """Print a table of the stages in `folder`, then each one's details; raises as `overviews_of` does."""
    overviews = overviews_of(folder, scheduler)
    shown = [overview for overview in overviews if not overview.empty] or overviews[:1]
    if rows := stage_rows(overviews):
        _show(["stage", "state", "done", "waits for", "time left", "job"], rows)
    for overview in shown:
        _show_overview(overview)


def _show_overview(overview: Overview) -> None:
    for line in _head(overview):
        echo(line)
    if overview.attempts:
        rows = [_attempt_row(attempt, overview) for attempt in overview.attempts]
        columns = ["attempt", "job", "started", "duration", "nodes", "ranks", "steps", "lost", "state"]
        _show(columns, rows)
    jobs = [
        (job.job, job.name, job.state, str(job.restarts), job.nodes, _pending_reason(job.reason, job.start))
        for job in overview.alive
    ]
    if jobs:
        _show(["job", "name", "state", "restarts", "nodes", "pending reason"], jobs)
    endings = [
        (job, str(e.start), e.cause, e.detail)
        for job, ends in overview.endings.items()
        if job.split("_")[0] not in overview.superseded
        for e in ends
    ]
    if endings and not overview.attempts:
        _show(["job", "start", "cause", "detail"], endings)
    for problem in overview.unknown:
        echo(f"unknown: {problem}")


def _head(overview: Overview) -> Iterable[str]:
    """A summary of one or two lines."""
    folder = overview.folder
    if overview.attempts:
        yield f"{folder}: {_training(overview)}"
    if (folder / "tasks").is_dir():
        from preprocess.tasks import ledger  # brings pydicom

        yield f"{folder}: {ledger.status(folder)}"
    for job, endings in overview.given_up.items():
        yield f"{folder}: job {job} does not run again: {_reason(endings[-1])}"
    if overview.empty:
        yield f"{folder}: no recorded attempts and no known jobs"


def _training(overview: Overview) -> str:
    newest, figures = overview.attempts[-1], last_figures(overview.folder)
    steps = newest.configuration["run"]["steps"]
    state = state_of(newest, overview) if newest.ended is None else _end_text(newest)
    if newest.ended and newest.cause != "done" and any(job.state == "PENDING" for job in overview.alive):
        state = f"waiting to restart after: {state}"
    silent = time.time() - (overview.folder / "metrics.jsonl").stat().st_mtime if figures else 0.0
    long_ago = f" ({duration(silent)} ago)" if newest.ended is None and silent > SILENT_SECONDS else ""
    parts = [state, f"step {int(figures.get('step', 0)):,} of {steps:,}{long_ago}"]
    parts += [f"loss {figures['loss']:.4g}"] if "loss" in figures else []
    return ", ".join([*parts, f"newest checkpoint at step {newest_step(overview.folder):,}"])


def _attempt_row(attempt: Attempt, overview: Overview) -> tuple[str, ...]:
    last = attempt.last_step
    if attempt.ended is None:
        last = int(last_figures(overview.folder).get("step", 0))
    did = last is not None and last >= attempt.first_step
    lost = attempt.lost_steps if attempt.ended else None
    return (
        str(attempt.number),
        f"{attempt.slurm.job}.{attempt.slurm.restarts}" if attempt.slurm else "-",
        attempt.began.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        duration(((attempt.ended or datetime.now(UTC)) - attempt.began).total_seconds()),
        (attempt.slurm.nodes if attempt.slurm else None) or ",".join(attempt.hosts),
        str(attempt.world_size),
        f"{attempt.first_step}-{last}" if did else "none",
        "" if lost is None else str(lost),
        _end_text(attempt) if attempt.ended else state_of(attempt, overview),
    )


def _end_text(attempt: Attempt) -> str:
    rank = f" of rank {attempt.failed_rank}" if attempt.failed_rank is not None else ""
    return f"{attempt.cause}{rank}" + (f": {attempt.detail}" if attempt.detail else "")


def _reason(ending: Ending) -> str:
    return f"{ending.cause}: {ending.detail}" if ending.detail else ending.cause


def _pending_reason(reason: str, start: datetime | None) -> str:
    return f"{reason}, not before {start:%H:%M:%S}" if reason == "BeginTime" and start else reason


def _show(columns: list[str], rows: Iterable[tuple[str, ...]]) -> None:
    """Print a table, or one line per row with named columns."""
    if not sys.stdout.isatty():
        for row in rows:
            echo(", ".join(f"{name} {value}" for name, value in zip(columns, row, strict=True) if value))
        return
    from rich.console import Console

    from launch.tables import PlainTable

    table = PlainTable(*columns)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
