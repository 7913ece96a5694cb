"""The jobs of a folder and their progress, from the scheduler if it answers, and from the folder."""

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from fmct_hpc.train.attempts import Attempt, attempts, conclude
from launch.jobs.causes import by_scheduler, by_state, is_log, log_of_start
from launch.jobs.requeue import Ending, decide, read
from launch.scheduler import ALIVE, Explained, JobFacts, JobStart, Queued, Scheduler
from shards.errors import FmctError

NEWEST_JOBS = 8
"""Number of a folder's jobs that the scheduler is asked about; older ones are known from the folder."""

_NUMBER = re.compile("[0-9]+")
_WRITES = {
    name: "--run" if stage == "train" else "--out"
    for stage in ("train", "preprocess", "plan", "collect", "sweep")
    for name in (f"{stage}.sbatch", f"fmct-{stage}")
}
"""For jobs of sbatch files, by file or job name: the option that names their output folder."""


@dataclass
class Overview:
    """The known state of a folder."""

    folder: Path
    jobs: list[JobFacts] = field(default_factory=list)
    """Jobs known to the scheduler; array tasks one by one, pending ones possibly several in one record."""
    past: list[JobStart] = field(default_factory=list)
    """From accounting: jobs that the scheduler no longer knows."""
    attempts: list[Attempt] = field(default_factory=list)
    endings: dict[str, list[Ending]] = field(default_factory=dict)
    """Endings of starts that did not succeed, by job."""
    job_names: dict[str, str] = field(default_factory=dict)
    """Job names by number, also of forgotten jobs."""
    answered: bool = True
    """Whether the scheduler answered."""
    unknown: list[str] = field(default_factory=list)
    """What could not be determined, and why."""

    @property
    def names(self) -> dict[str, str]:
        """Job names by number; a pipeline's without their digests."""
        return {number: re.sub("-[0-9a-f]{8}$", "", name) for number, name in self.job_names.items()}

    @property
    def superseded(self) -> set[str]:
        """Numbers of jobs that are over and of which a job of the same name was submitted later."""
        alive, newest = {job.array for job in self.alive}, self.newest
        return {n for n, name in self.names.items() if n not in alive and newest[name] != n}

    @property
    def newest(self) -> dict[str, str]:
        """The number of the newest job of each name."""
        return {self.names[number]: number for number in sorted(self.names, key=int)}

    @property
    def alive(self) -> list[JobFacts]:
        """Jobs that are pending or running."""
        return [job for job in self.jobs if job.state in ALIVE]

    @property
    def empty(self) -> bool:
        """Whether nothing is known: no attempt, no job, no task."""
        return not (self.attempts or self.jobs or self.past or (self.folder / "tasks").is_dir())

    @property
    def given_up(self) -> dict[str, list[Ending]]:
        """Jobs that failed, do not run again, and were not submitted again since."""
        alive, superseded = {job.job for job in self.alive}, self.superseded
        return {
            job: endings
            for job, endings in self.endings.items()
            if job not in alive and job.split("_")[0] not in superseded and not decide(endings).again
        }


def overviews_of(folder: Path, scheduler: Scheduler) -> list[Overview]:
    """Collect the state of a folder, and of its subfolders with jobs: the stages of a pipeline.

    Raises FmctError if the folder does not exist.
    """
    if not folder.is_dir():
        raise FmctError(f"{folder}: no such folder; give a run folder, or the --out of a stage")
    places = [folder, *sorted(path.parent for path in folder.glob("*/slurm") if path.is_dir())]
    queue = scheduler.queued() or []
    return [overview_of(place, scheduler, queue) for place in places]


def overview_of(folder: Path, scheduler: Scheduler, queue: list[Queued] | None = None) -> Overview:
    """Collect the state of a run folder, or of any folder that jobs were submitted for.

    The record of an attempt without an end is completed if the attempt is over according to the
    scheduler. queue: this user's jobs; None: the scheduler is asked for them.
    """
    overview = Overview(folder, attempts=attempts(folder))
    for path in (folder / "slurm").glob("*.endings.jsonl"):
        job = path.name.removesuffix(".endings.jsonl")
        if endings := read(path.parent, job):
            overview.endings[job] = endings
    _ask_scheduler(overview, scheduler, scheduler.queued() or [] if queue is None else queue)
    overview.job_names = _names(overview)
    _judge_newest_attempt(overview, scheduler)
    return overview


def state_of(attempt: Attempt, overview: Overview) -> str:
    """The displayed state of an attempt without an end."""
    job = _job_of(attempt, overview)
    if attempt.slurm is None:
        return "running" if _is_alive(attempt) else f"started on {next(iter(attempt.hosts))}"
    return job.state.lower() if job else "unknown"


def newest_log(folder: Path, scheduler: Scheduler, rank: int | None = None) -> list[Path]:
    """The logs of a folder's newest attempt or job: the failed rank's first, or only that of `rank`.

    Of a pipeline, those of the stage that wrote last. Raises FmctError if there is none.
    """
    stages = [list(_logs(overview, rank)) for overview in overviews_of(folder, scheduler)]
    candidates = [logs for logs in stages if logs]
    if not candidates:
        what = f"of rank {rank}" if rank is not None else "of a job"
        raise FmctError(f"{folder}: no log {what} found; was it submitted for this folder?")
    return max(candidates, key=lambda logs: max(path.stat().st_mtime for path in logs))


def _logs(overview: Overview, rank: int | None) -> Iterator[Path]:
    newest = overview.attempts[-1] if overview.attempts else None
    if newest and newest.slurm:
        logs = {_rank_of(path): path for path in _own_logs(overview, newest.slurm.job)}
        if not logs and newest.slurm.log and is_log(Path(newest.slurm.log), newest.slurm.job):
            logs = {0: Path(newest.slurm.log)}  # of all ranks
        wanted = [rank] if rank is not None else [newest.failed_rank, *sorted(logs)]
        yield from dict.fromkeys(logs[number] for number in wanted if number in logs)
        return
    failed = [job for job in overview.given_up if _own_logs(overview, job)]
    arrays = sorted({job.array for job in overview.jobs}, key=int, reverse=True)
    jobs = failed or arrays or sorted(overview.names, key=int)[-1:]
    for job in jobs:
        logs_of_job = sorted(_own_logs(overview, job), key=lambda path: -path.stat().st_mtime)
        known = [(Path(facts.log), facts.job) for facts in overview.jobs if facts.array == job and facts.log]
        yield from logs_of_job or [path for path, of_job in known if is_log(path, of_job)]


def _own_logs(overview: Overview, job: str) -> list[Path]:
    """Logs of a job, or of an array's tasks, in the folder itself; symbolic links are not followed."""
    name = re.compile(rf"{re.escape(job)}(_[0-9]+)*_[0-9]+_log\.out")
    slurm = overview.folder / "slurm"
    files = sorted(slurm.iterdir()) if slurm.is_dir() else []
    return [path for path in files if name.fullmatch(path.name) and path.is_file() and not path.is_symlink()]


def _rank_of(path: Path) -> int:
    return int(path.name.removesuffix("_log.out").rsplit("_", 1)[1])


def _numbers(overview: Overview, queue: list[Queued]) -> list[str]:
    """Numbers of a folder's jobs, newest first."""
    slurm = overview.folder / "slurm"
    numbers = {path.name.removesuffix("_submission.sh") for path in slurm.glob("[0-9]*_submission.sh")}
    numbers |= {path.name.split("_")[0] for path in slurm.glob("[0-9]*_log.out")}
    numbers |= {job.split("_")[0] for job in overview.endings}
    numbers |= {attempt.slurm.job for attempt in overview.attempts if attempt.slurm}
    here = overview.folder.resolve()
    numbers |= {job.number for job in queue if _written(job) == here}
    return sorted((number for number in numbers if _NUMBER.fullmatch(number)), key=int, reverse=True)


def _names(overview: Overview) -> dict[str, str]:
    """Job names from the scheduler, else from the submitted scripts, else from a training's attempts."""
    names = {attempt.slurm.job.split("_")[0]: "fmct-train" for attempt in overview.attempts if attempt.slurm}
    for path in (overview.folder / "slurm").glob("[0-9]*_submission.sh"):
        if name := re.search("^#SBATCH --job-name=(.*)$", path.read_text(errors="replace"), re.MULTILINE):
            names[path.name.removesuffix("_submission.sh")] = name.group(1).strip("\"'")
    names |= {job.array: job.name for job in overview.jobs}
    return {number: name for number, name in names.items() if _NUMBER.fullmatch(number)}


def writes(job: JobFacts, folder: Path) -> bool:
    """Whether a job writes to `folder` according to the scheduler; a folder's records may name any job."""
    of_ours = job.log is not None and Path(job.log).parent.resolve() == (folder / "slurm").resolve()
    return of_ours or _written(job) == folder.resolve()


def _written(job: Queued | JobFacts) -> Path | None:
    """The folder that a job of one of our sbatch files writes, from its command; None for other jobs."""
    script, *words = job.command.split() or [""]
    option = _WRITES.get(Path(script).name) or _WRITES.get(job.name)
    if option is None:
        return None
    given = " ".join(words).replace(f"{option}=", f"{option} ").split()
    places = [word for before, word in pairwise(given) if before == option]
    return Path(job.folder, places[-1]).resolve() if places else None


def _ask_scheduler(overview: Overview, scheduler: Scheduler, queue: list[Queued]) -> None:
    numbers = _numbers(overview, queue)
    if not numbers:
        return
    forgotten = []
    for number in numbers[:NEWEST_JOBS]:
        jobs = scheduler.jobs_known(number)
        if jobs is None:
            overview.answered = False
            overview.unknown.append(
                f"whether jobs are pending or running ({scheduler.title} does not answer)"
            )
            break
        overview.jobs += jobs
        forgotten += [] if jobs else [number]
    past = scheduler.job_starts(forgotten)
    if past is None:
        which = f"job {forgotten[0]}" if len(forgotten) == 1 else f"jobs {', '.join(forgotten)}"
        overview.unknown.append(
            f"how {which} ended (accounting does not answer, and {scheduler.title} no longer has their "
            "records)"
        )
    overview.past = past or []


def _job_of(attempt: Attempt, overview: Overview) -> JobFacts | None:
    """The job of an attempt, if it is at the start that the attempt belongs to."""
    slurm = attempt.slurm
    found = (job for job in overview.jobs if slurm and (job.job, job.restarts) == (slurm.job, slurm.restarts))
    return next(found, None)


def _judge_newest_attempt(overview: Overview, scheduler: Scheduler) -> None:
    """Determine whether and why the newest attempt has ended, and record the result."""
    newest = overview.attempts[-1] if overview.attempts else None
    if newest is None or (newest.ended and newest.cause != "stopped"):
        return
    explained: Explained | None
    if newest.slurm is None:
        explained = None if newest.ended or _is_alive(newest) is not False else Explained("killed")
    elif not overview.answered:
        return
    else:
        job = _job_of(newest, overview)
        if job is not None and job.state in ALIVE and job.state != "PENDING":
            return
        explained = by_state(job.state, scheduler) if job else None
        if explained is None:
            nodes = scheduler.hostnames(newest.slurm.nodes) if newest.slurm.nodes else []
            path, start = newest.slurm.log, newest.slurm.restarts
            text = log_of_start(Path(path) if path else None, newest.slurm.job, start)
            explained = by_scheduler(newest.slurm.job, nodes, text, start, scheduler)
    if explained is None:
        return
    try:
        concluded = conclude(overview.folder, *explained)
    except OSError as error:
        overview.unknown.append(f"the end of attempt {newest.number} could not be recorded ({error})")
        return
    overview.attempts[-1] = concluded or newest


def _is_alive(attempt: Attempt) -> bool | None:
    """Whether rank 0 of an attempt outside a job is alive; None if it is on another host."""
    if socket.gethostname() not in attempt.hosts:
        return None
    try:
        words = Path(f"/proc/{attempt.process}/cmdline").read_bytes()
    except OSError:
        return False
    return b"train" in words
