"""The restart policy of all batch scripts, and its execution.

A batch script calls `before` when the scheduler starts it again, and `after` with its command's exit code.
Each ending is a line of <folder>/<job>.endings.jsonl; the policy is a function of those lines and, if they
can't be written, of the scheduler's count of starts.
"""

import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import StringConstraints, ValidationError

from fmct_hpc.train.attempts import Attempt, Cause, RecordedJob, attempts, conclude
from launch.jobs.causes import by_code, by_scheduler, log_of_start
from launch.jobs.ledgers import counter
from launch.jobs.progress import progress_of_job
from launch.scheduler import BACKOFF_SECONDS, Explained, Scheduler
from shards.atomic import write_text
from shards.closed import Closed
from shards.errors import FmctError
from shards.progress import Progress
from shards.share import WHOLE

log = logging.getLogger(__name__)

FAILURES: dict[Cause, int] = {"crash": 2, "hang": 2, "killed": 3, "node failure": 4, "no room": 6}
"""Causes that are retried, and the number of one kind at the same position after which they are not."""

INTERRUPTIONS: tuple[Cause, ...] = ("preempted", "time limit", "requeued", "stopped")
"""Causes that are not failures of the job."""

MAX_FAILURES = 20
"""Limit per job, regardless of its progress between failures."""

MAX_IDLE = 10
"""Limit of interruptions at the same position after the first one there; of all, if it is unknown."""

MAX_TIME_LIMITS = 3
"""Limit at the same position: a job that used its full time twice without progress will not make any."""

LONGEST_BACKOFF_SECONDS = 3600.0
ANSWER_SECONDS = 600.0
"""How long a job waits for a scheduler that does not answer before it gives up."""


class Ending(Closed):
    """How a start of a job ended."""

    job: str
    start: int
    """0 for the first, then the scheduler's count of restarts."""
    at: datetime
    cause: Cause
    detail: str = ""
    code: int | None = None
    progress: int | None = None
    """How much work was done, if known."""
    unit: Annotated[str, StringConstraints(pattern="^[a-z]{1,40}$")] = "step"
    """The unit of `progress`."""

    @property
    def place(self) -> str:
        """The progress as text, to follow the cause."""
        if self.progress is None:
            return ""
        if self.unit == "step":
            return f" at the checkpoint of step {self.progress}"
        return f" with {self.progress} {self.unit}s done"


class Verdict(NamedTuple):
    """A decision of the policy."""

    again: bool
    wait: float
    """Seconds until the job may start."""
    why: str


def decide(
    endings: list[Ending], backoff: float = BACKOFF_SECONDS, more_time: str = Scheduler.more_time
) -> Verdict:
    """Decide whether a job runs again after the last of its `endings` (oldest first).

    An interruption is queued again at once, and with increasing delay from the second at the same position
    on. A failure is queued again after `backoff` seconds, doubled with each consecutive failure, up to an
    hour. Too many of one kind at the same position end the job, and so does any other cause.
    more_time: where its time limit is set.
    """
    last = endings[-1]
    here = _trailing(endings, lambda ending: ending.progress == last.progress)
    if last.cause in INTERRUPTIONS:
        return _after_interruption(last, here, backoff, more_time)
    if last.cause not in FAILURES:
        return Verdict(False, 0.0, "not queued again")
    same = sum(e.cause == last.cause for e in here)
    if same >= FAILURES[last.cause]:
        why = f"{last.cause} {same} times{last.place}, so not queued again: fix the cause and submit it again"
        return Verdict(False, 0.0, why)
    if sum(e.cause in FAILURES for e in endings) >= MAX_FAILURES:
        return Verdict(False, 0.0, f"failed {MAX_FAILURES} times in all, so not queued again")
    return _later(backoff, len(_trailing(endings, lambda e: e.cause in FAILURES)))


def _after_interruption(last: Ending, here: list[Ending], backoff: float, more_time: str) -> Verdict:
    limits = sum(ending.cause == "time limit" for ending in here)
    idle = sum(ending.cause in INTERRUPTIONS for ending in here) - 1
    if last.progress is not None and limits >= MAX_TIME_LIMITS:
        smaller = ", or start over with smaller tasks (output.shard_mib)" if last.unit == "task" else ""
        why = f"{limits} time limits{last.place} and no progress, so not queued again: give it more time"
        return Verdict(False, 0.0, f"{why} ({more_time}){smaller}")
    if idle >= MAX_IDLE:
        why = f"interrupted {idle + 1} times in a row{last.place}, so not queued again: submit it again"
        return Verdict(False, 0.0, why)
    return _later(backoff, idle) if idle else Verdict(True, 0.0, "queued again")


def before(folder: Path, run: Path | None, scheduler: Scheduler) -> bool:
    """Called by a batch script that the scheduler has started again: whether it may continue.

    run: of a training. Records how the previous start ended if that start could not do so itself.
    """
    job, start = _here()
    endings = read(folder, job)
    if endings and endings[-1].start == start - 1:
        return True  # decided by `after`
    attempt = _attempt(run, job, start - 1)
    nodes = attempt.slurm.nodes if attempt and attempt.slurm else None
    names = scheduler.hostnames(nodes) if nodes else []
    explained = by_scheduler(job, names, log_of_start(_log_path(), job, start - 1), start - 1, scheduler)
    verdict = decide(_record_ending(folder, run, job, start - 1, explained))
    if not verdict.again:
        log.error("job %s: start %d: %s: %s", job, start - 1, explained.detail, verdict.why)
    return verdict.again


def after(folder: Path, run: Path | None, code: int, backoff: float, scheduler: Scheduler) -> None:
    """Called by a batch script when its command has ended with `code`: requeue the job or log why not."""
    # The scheduler ends this process with the job that it queues again.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    job, start = _here()
    facts = scheduler.jobs_known(job)
    explained = by_code(code, log_of_start(_log_path(), job, start), scheduler)
    if facts and facts[0].state == "CANCELLED":
        explained = explained._replace(cause="cancelled")
    elif explained.cause == "stopped" and facts and facts[0].preempted:
        explained = explained._replace(cause="preempted")
    endings = _record_ending(folder, run, job, start, explained)
    ending, verdict = endings[-1], decide(endings, backoff, scheduler.more_time)
    cause = f"{ending.cause} ({ending.detail})" if ending.detail else ending.cause
    if not verdict.again:
        if ending.cause != "done":
            log.error("job %s: %s: %s", job, cause, verdict.why)
        return
    log.warning("job %s: %s: %s", job, cause, verdict.why)
    queue_again(job, start, verdict.wait, scheduler)


def read(folder: Path, job: str) -> list[Ending]:
    """The endings of a job, oldest first."""
    path = _path(folder, job)
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    endings = []
    for line in lines:
        with suppress(ValidationError):  # a partial line, or damage
            endings.append(Ending.model_validate_json(line))
    return endings


def _trailing(endings: list[Ending], holds: Callable[[Ending], bool]) -> list[Ending]:
    """The last consecutive endings for which `holds` is true, newest first."""
    trailing = []
    for ending in reversed(endings):
        if not holds(ending):
            break
        trailing.append(ending)
    return trailing


def _later(backoff: float, failures: int) -> Verdict:
    wait = min(backoff * 2 ** (failures - 1), LONGEST_BACKOFF_SECONDS)
    return Verdict(True, wait, f"queued again, to start in {wait:.0f} s")


def _here() -> tuple[str, int]:
    recorded = RecordedJob.current()
    if recorded is None:
        raise FmctError("not in a job of the scheduler: this command is for batch scripts")
    return recorded.job, recorded.restarts


def _path(folder: Path, job: str) -> Path:
    return folder / f"{job}.endings.jsonl"


def _log_path() -> Path | None:
    """The path of this job's log, which the batch script requested from the scheduler."""
    return Path(os.environ["FMCT_LOG"]) if os.environ.get("FMCT_LOG") else None


def _attempt(run: Path | None, job: str, start: int) -> Attempt | None:
    """The run's own record of that start; None if there is none yet."""
    newest = attempts(run)[-1:] if run else []
    return next((a for a in newest if a.slurm and (a.slurm.job, a.slurm.restarts) == (job, start)), None)


def _progress(folder: Path, job: str, run: Path | None) -> Progress:
    count = counter("train") if run else None
    return count(run, WHOLE) if run and count else progress_of_job(folder, job)


def _record_ending(
    folder: Path, run: Path | None, job: str, start: int, explained: Explained
) -> list[Ending]:
    """Record an ending for the policy and, of a training, in the run's own record, which has more detail.

    Returns the job's endings including this one, for `decide`. If it can't be written, earlier ones may be
    missing for the same reason, so it is counted for each start without a record: the limits still hold.
    """
    cause, detail = explained.cause, explained.detail
    progress = _progress(folder, job, run)
    try:
        if run is not None and _attempt(run, job, start) is not None:
            concluded = conclude(run, cause, detail, explained.rank, explained.code)
            if concluded is not None and concluded.cause not in (None, "done"):
                cause, detail = concluded.cause, concluded.detail
    except OSError as error:
        log.warning("%s: the end of this attempt could not be recorded: %s", run, error)
    ending = Ending(
        job=job,
        start=start,
        at=datetime.now(UTC),
        cause=cause,
        detail=detail,
        code=explained.code,
        progress=progress.done,
        unit=progress.unit,
    )
    before = read(folder, job)
    try:
        # The whole file is rewritten, so that a full disk leaves no partial line.
        write_text(_path(folder, job), "".join(f"{e.model_dump_json()}\n" for e in (*before, ending)))
    except OSError as error:
        log.warning("%s: the end of this start could not be recorded: %s", _path(folder, job), error)
        known = {e.start: e for e in before}
        before = [known.get(n, ending.model_copy(update={"start": n})) for n in range(start)]
    return [*before, ending]


def queue_again(job: str, start: int, wait: float, scheduler: Scheduler) -> None:
    """Requeue this start of a job, which soon ends this process.

    The scheduler may already have done so after a node failure; a later start is never affected.
    """
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        facts, trouble = scheduler.jobs_known(job), f"{scheduler.title} does not answer"
        if facts == [] or (facts and facts[0].restarts > start + 1):
            return
        if facts and facts[0].restarts == start:
            trouble = scheduler.requeue(job) or ""
        if facts and (facts[0].restarts > start or not trouble):
            break
        if time.monotonic() > deadline:
            log.error("job %s: could not be queued again (%s); submit it again", job, trouble)
            return
        time.sleep(5)
    # Only a pending job accepts an earliest start time.
    if wait:
        scheduler.delay(job, wait)
