"""A folder's jobs and how far they are: from Slurm, as far as it answers, and from the folder's records."""

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from fmct_hpc.train.attempts import Attempt, attempts, conclude
from launch.slurm import scheduler
from launch.slurm.causes import Explained, by_slurm, by_state, is_log, log_of_start
from launch.slurm.requeue import Ending, decide, read
from launch.slurm.scheduler import ALIVE, JobFacts, Queued
from shards.errors import FmctError

NEWEST_JOBS = 8
"""Of a folder, about which Slurm is asked; those before are told by the folder's records."""

_NUMBER = re.compile("[0-9]+")
_WRITES = {
    name: "--run" if stage == "train" else "--out"
    for stage in ("train", "preprocess", "plan", "collect", "sweep")
    for name in (f"{stage}.sbatch", f"fmct-{stage}")
}
"""Of jobs by sbatch files, whose names they may keep as their own: what names the folder that they write."""


@dataclass
class Picture:
    """What is known of a folder."""

    folder: Path
    jobs: list[JobFacts] = field(default_factory=list)
    """Of those that Slurm knows; the tasks of an array each, or several that wait in one."""
    past: list[scheduler.Accounted] = field(default_factory=list)
    """From accounting: jobs that slurmctld no longer knows."""
    attempts: list[Attempt] = field(default_factory=list)
    endings: dict[str, list[Ending]] = field(default_factory=dict)
    """How starts of jobs that did not end well have ended, by job."""
    names: dict[str, str] = field(default_factory=dict)
    """Of jobs by number, those that Slurm has forgotten among them; a pipeline's without their digests."""
    answered: bool = True
    """Whether slurmctld did."""
    unknown: list[str] = field(default_factory=list)
    """What cannot be known now, and why."""

    @property
    def alive(self) -> list[JobFacts]:
        """Jobs that wait or run."""
        return [job for job in self.jobs if job.state in ALIVE]

    @property
    def empty(self) -> bool:
        """Whether nothing is known: no attempt, no job, no task."""
        return not (self.attempts or self.jobs or self.past or (self.folder / "tasks").is_dir())

    @property
    def given_up(self) -> dict[str, list[Ending]]:
        """Jobs that failed, do not run again, and were not submitted anew since."""
        alive = {job.job for job in self.alive}
        newest: dict[str, int] = {}
        for number, name in self.names.items():
            newest[name] = max(int(number), newest.get(name, 0))
        found = {}
        for job, endings in self.endings.items():
            number = job.split("_")[0]
            superseded = number in self.names and newest[self.names[number]] > int(number)
            if job not in alive and not superseded and not decide(endings).again:
                found[job] = endings
        return found


def look_at_all(folder: Path) -> list[Picture]:
    """Look at the folder, and at those in it that jobs were submitted for: the stages of a pipeline.

    Raises FmctError where the folder is not there.
    """
    if not folder.is_dir():
        raise FmctError(f"{folder}: no such folder; give a run folder, or the --out of a stage")
    places = [folder, *sorted(path.parent for path in folder.glob("*/slurm") if path.is_dir())]
    queue = scheduler.queued() or []
    return [look(place, queue) for place in places]


def look(folder: Path, queue: list[Queued] | None = None) -> Picture:
    """Look at a run folder, or at any folder that jobs were submitted for.

    An attempt whose end is not on record, and that is over by what Slurm says, is concluded. queue: this
    user's jobs; None: Slurm is asked for them.
    """
    picture = Picture(folder, attempts=attempts(folder))
    for path in (folder / "slurm").glob("*.endings.jsonl"):
        job = path.name.removesuffix(".endings.jsonl")
        if endings := read(path.parent, job):
            picture.endings[job] = endings
    _ask_slurm(picture, scheduler.queued() or [] if queue is None else queue)
    picture.names = _names(picture)
    _judge_newest_attempt(picture)
    return picture


def state_of(attempt: Attempt, picture: Picture) -> str:
    """What to say of an attempt that has no end."""
    job = _job_of(attempt, picture)
    if attempt.slurm is None:
        return "running" if _lives(attempt) else f"begun on {next(iter(attempt.hosts))}"
    return job.state.lower() if job else "unknown"


def newest_log(folder: Path, rank: int | None = None) -> list[Path]:
    """The logs of a folder's newest attempt or job: the failed rank's first, or only that of `rank`.

    Of a pipeline, those of the stage that wrote last. Raises FmctError where there is none.
    """
    stages = [list(_logs(picture, rank)) for picture in look_at_all(folder)]
    found = [logs for logs in stages if logs]
    if not found:
        what = f"of rank {rank}" if rank is not None else "of a job"
        raise FmctError(f"{folder}: no log {what} is to be found; was it submitted for this folder?")
    return max(found, key=lambda logs: max(path.stat().st_mtime for path in logs))


def _logs(picture: Picture, rank: int | None) -> Iterator[Path]:
    newest = picture.attempts[-1] if picture.attempts else None
    if newest and newest.slurm:
        logs = {_rank_of(path): path for path in _own_logs(picture, newest.slurm.job)}
        if not logs and newest.slurm.log and is_log(Path(newest.slurm.log), newest.slurm.job):
            logs = {0: Path(newest.slurm.log)}  # of all ranks
        wanted = [rank] if rank is not None else [newest.failed_rank, *sorted(logs)]
        yield from dict.fromkeys(logs[number] for number in wanted if number in logs)
        return
    failed = [job for job in picture.given_up if _own_logs(picture, job)]
    known = sorted({job.array for job in picture.jobs}, key=int, reverse=True)
    jobs = failed or known or sorted(picture.names, key=int)[-1:]
    for job in jobs:
        logs_of_job = sorted(_own_logs(picture, job), key=lambda path: -path.stat().st_mtime)
        told = [(Path(facts.log), facts.job) for facts in picture.jobs if facts.array == job and facts.log]
        yield from logs_of_job or [path for path, of_job in told if is_log(path, of_job)]


def _own_logs(picture: Picture, job: str) -> list[Path]:
    """Logs of a job, or of an array's tasks, in the folder itself; a link may lead anywhere."""
    name = re.compile(rf"{re.escape(job)}(_[0-9]+)*_[0-9]+_log\.out")
    slurm = picture.folder / "slurm"
    found = sorted(slurm.iterdir()) if slurm.is_dir() else []
    return [path for path in found if name.fullmatch(path.name) and path.is_file() and not path.is_symlink()]


def _rank_of(path: Path) -> int:
    return int(path.name.removesuffix("_log.out").rsplit("_", 1)[1])


def _numbers(picture: Picture, queue: list[Queued]) -> list[str]:
    """Numbers of the jobs of a folder, newest first."""
    slurm = picture.folder / "slurm"
    found = {path.name.removesuffix("_submission.sh") for path in slurm.glob("[0-9]*_submission.sh")}
    found |= {job.split("_")[0] for job in picture.endings}
    found |= {attempt.slurm.job for attempt in picture.attempts if attempt.slurm}
    here = picture.folder.resolve()
    found |= {job.number for job in queue if _written(job) == here}
    return sorted((number for number in found if _NUMBER.fullmatch(number)), key=int, reverse=True)


def _names(picture: Picture) -> dict[str, str]:
    """From what Slurm still knows, else from the scripts that it got, else from a training's attempts."""
    names = {attempt.slurm.job.split("_")[0]: "fmct-train" for attempt in picture.attempts if attempt.slurm}
    for path in (picture.folder / "slurm").glob("[0-9]*_submission.sh"):
        if name := re.search("^#SBATCH --job-name=(.*)$", path.read_text(errors="replace"), re.MULTILINE):
            names[path.name.removesuffix("_submission.sh")] = name.group(1).strip("\"'")
    names |= {job.array: job.name for job in picture.jobs}
    names = {number: name for number, name in names.items() if _NUMBER.fullmatch(number)}
    return {number: re.sub("-[0-9a-f]{8}$", "", name) for number, name in names.items()}


def writes(job: JobFacts, folder: Path) -> bool:
    """Whether a job works on `folder` by what Slurm has of it; a folder's own records may name any job."""
    of_ours = job.log is not None and Path(job.log).parent.resolve() == (folder / "slurm").resolve()
    return of_ours or _written(job) == folder.resolve()


def _written(job: Queued | JobFacts) -> Path | None:
    """The folder that a job of an sbatch file of ours writes, by its command; None of any other job."""
    script, *words = job.command.split() or [""]
    option = _WRITES.get(Path(script).name) or _WRITES.get(job.name)
    if option is None:
        return None
    given = " ".join(words).replace(f"{option}=", f"{option} ").split()
    places = [word for before, word in pairwise(given) if before == option]
    return Path(job.folder, places[-1]).resolve() if places else None


def _ask_slurm(picture: Picture, queue: list[Queued]) -> None:
    numbers = _numbers(picture, queue)
    if not numbers:
        return
    forgotten = []
    for number in numbers[:NEWEST_JOBS]:
        jobs = scheduler.jobs_known(number)
        if jobs is None:
            picture.answered = False
            picture.unknown.append("slurmctld does not answer: whether jobs wait or run now cannot be known")
            break
        picture.jobs += jobs
        forgotten += [] if jobs else [number]
    past = scheduler.accounted(forgotten)
    if past is None:
        which = ", ".join(forgotten)
        picture.unknown.append(
            f"accounting does not answer: of jobs that slurmctld forgot only their own records tell ({which})"
        )
    picture.past = past or []


def _job_of(attempt: Attempt, picture: Picture) -> JobFacts | None:
    """The job of an attempt, if it is the very start that the attempt belongs to."""
    slurm = attempt.slurm
    found = (job for job in picture.jobs if slurm and (job.job, job.restarts) == (slurm.job, slurm.restarts))
    return next(found, None)


def _judge_newest_attempt(picture: Picture) -> None:
    """Find out whether the newest attempt is over, and why; what was learned is put on record."""
    newest = picture.attempts[-1] if picture.attempts else None
    if newest is None or (newest.ended and newest.cause != "stopped"):
        return
    explained: Explained | None
    if newest.slurm is None:
        explained = None if newest.ended or _lives(newest) is not False else Explained("killed")
    elif not picture.answered:
        return
    else:
        job = _job_of(newest, picture)
        if job is not None and job.state in ALIVE and job.state != "PENDING":
            return
        explained = by_state(job.state) if job else None
        if explained is None:
            nodes = scheduler.hostnames(newest.slurm.nodes) if newest.slurm.nodes else []
            path, start = newest.slurm.log, newest.slurm.restarts
            text = log_of_start(Path(path) if path else None, newest.slurm.job, start)
            explained = by_slurm(newest.slurm.job, nodes, text, start)
    if explained is None:
        return
    try:
        concluded = conclude(picture.folder, *explained)
    except OSError as error:
        picture.unknown.append(f"how attempt {newest.number} ended could not be recorded ({error})")
        return
    picture.attempts[-1] = concluded or newest


def _lives(attempt: Attempt) -> bool | None:
    """Whether rank 0 of an attempt outside Slurm lives; None where it is on another host."""
    if socket.gethostname() not in attempt.hosts:
        return None
    try:
        words = Path(f"/proc/{attempt.process}/cmdline").read_bytes()
    except OSError:
        return False
    return b"train" in words
