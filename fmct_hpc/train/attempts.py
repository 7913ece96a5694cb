"""What a run folder says of each attempt at the run: where, with what, which steps it did, why it ended.

`attempts/0001.json` is written by rank 0 when the attempt begins, and again when it ends in order. A rank
that fails leaves `attempts/0001.rank-00003.json`. An attempt that could do neither, because it was killed,
is concluded by whoever looks next: the launcher, which knows what the scheduler says, or the next attempt.
Nothing here needs torch.
"""

import logging
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import StringConstraints, ValidationError, field_validator

from fmct_hpc.train.checkpoint import DataFacts, newest_step
from fmct_hpc.train.figures import figures_of
from fmct_hpc.train.software import Software
from shards.atomic import write_text
from shards.closed import Closed
from shards.errors import (
    DamagedDataError,
    FmctError,
    LostProcessError,
    NoRoomError,
    UnavailableError,
    UnsoundError,
    raise_refusal,
    refusal,
)
from shards.job import RunningJob

if TYPE_CHECKING:
    from fmct_hpc.config import TrainConfig

log = logging.getLogger(__name__)

FORMAT_VERSION = 1

Cause = Literal[
    "done",  # all steps are done, or those up to --until
    "preempted",  # by a job of higher priority
    "time limit",
    "requeued",  # by the user or an administrator
    "cancelled",
    "stopped",  # by a signal of unknown origin
    "node failure",
    "crash",  # of a rank: a defect, a signal, too little memory
    "hang",  # no step ended for run.hang_minutes
    "no room",  # a full disk or quota
    "damaged data",
    "unsound",  # not finite, or collapsed, and the configuration has that stop the run
    "refused",  # any other error that a user can correct
    "killed",  # cause unknown
]

_SIGNALS: dict[str, Cause] = {
    "SIGUSR1": "time limit",
    "SIGUSR2": "time limit",
    "time limit": "time limit",
}
"""A scheduler's warnings come as SIGUSR1 or SIGUSR2; a SIGTERM may be anybody's."""

_BY_WHOM = ("preempted", "time limit", "requeued", "cancelled")
"""What may be learned of a run that was stopped, after it has ended."""

_LOST = ("onnection closed by peer", "onnection reset by peer", "roken pipe", "Socket Timeout", "NCCL")
"""In the message of a rank whose only trouble is that another has died."""


class RecordedJob(Closed):
    """The job that an attempt runs in, by its environment."""

    job: Annotated[str, StringConstraints(pattern=r"^[0-9]+(_[0-9]+)?$")]
    """Of an array's task 12_3."""
    restarts: int
    """How often the scheduler has started this job again."""
    cluster: str | None
    partition: str | None
    account: str | None
    qos: str | None
    nodes: Annotated[str, StringConstraints(pattern="^[^-]")] | None
    """As the scheduler writes it: n[1-4]."""
    log: str | None
    """The job's log, if its batch script gives it (FMCT_LOG)."""

    @classmethod
    def here(cls) -> "RecordedJob | None":
        """That of this process; None outside a job. Bytes that are no UTF-8 become replacement characters."""
        job, log = RunningJob.current(), os.environ.get("FMCT_LOG")
        if job.number is None or job.rank is None:  # a job's processes have both
            return None
        return cls(
            job=job.number,
            restarts=job.restarts,
            cluster=job.cluster,
            partition=job.partition,
            account=job.account,
            qos=job.qos,
            nodes=job.nodes,
            log=log and log.encode(errors="surrogateescape").decode(errors="replace"),
        )


class Attempt(Closed):
    """One start of a run: attempts/<number>.json."""

    format_version: int = FORMAT_VERSION
    number: int
    """Counted from 1."""
    began: datetime
    hosts: dict[str, list[int]]
    """The ranks on each host."""
    process: int
    """Rank 0's process id on its host."""
    world_size: int
    device: str = "cpu"
    """What rank 0 computes on."""
    slurm: RecordedJob | None
    """The job, of any scheduler: records keep the key's first name. None outside a job."""
    configuration: dict[str, Any]
    """The whole TrainConfig: parts of it may change from one attempt to the next."""
    data: DataFacts
    """Digests of the volumes trained on."""
    start_digest: str | None
    """Of what the run began with in place of drawn weights (`checkpoint.Beginning`)."""
    software: Software
    first_step: int
    """The first step to do, counted from 1: the one after the checkpoint that it resumes from."""
    ended: datetime | None = None
    """None while it runs. Of a killed attempt: when its last step ended."""
    last_step: int | None = None
    """The last step that was done; first_step - 1 where none was."""
    saved_step: int | None = None
    """Of the newest checkpoint at the end; what was done after it is lost."""
    save_seconds: float = 0.0
    """What its longest save took, or an earlier attempt's; 0 where it did not end in order."""
    cause: Cause | None = None
    detail: str = ""
    """In words: the error, the signal."""
    failed_rank: int | None = None
    """The rank that failed first."""
    exit_code: int | None = None
    """Of that rank; above 128: a signal's number + 128."""

    @field_validator("configuration")
    @classmethod
    def _say_how_long(cls, configuration: dict[str, Any]) -> dict[str, Any]:
        """The one key of it that is read whatever version wrote it."""
        run = configuration.get("run")
        if not isinstance(run, dict) or type(run.get("steps")) is not int:
            raise ValueError("run.steps is missing")
        return configuration

    @property
    def steps(self) -> int | None:
        """How many steps it did."""
        return None if self.last_step is None else self.last_step - self.first_step + 1

    @property
    def lost_steps(self) -> int | None:
        """Steps that it did and that have to be done again."""
        if self.last_step is None or self.saved_step is None:
            return None
        return max(0, self.last_step - self.saved_step)


class Failure(Closed):
    """The error record of a rank that failed."""

    rank: int
    host: str
    when: float
    """Seconds of `time.time`."""
    cause: Cause
    detail: str
    exit_code: int
    lost_another: bool
    """Its only trouble was that another rank died."""


def attempts(run: Path) -> list[Attempt]:
    """All attempts at a run, oldest first; those of another version are left out, with a warning."""
    found = []
    for path in _paths(run):
        try:
            found.append(Attempt.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError) as error:
            raise_refusal(error, path)
            log.warning("%s: damaged, or written by another version of fmct-hpc: left out", path)
    return found


def begin(
    run: Path,
    config: "TrainConfig",
    data: DataFacts,
    hosts: list[str],
    step: int,
    device: str = "cpu",
    start_digest: str | None = None,
) -> Attempt:
    """Record that an attempt begins, at `step` done steps, with a rank on each of `hosts`; rank 0 calls it.

    start_digest: of what the run began with; None: what the attempt before says.
    Attempts before it that have no end are concluded as killed.
    """
    earlier = conclude(run)
    number = 1 + max((int(path.stem) for path in _paths(run)), default=0)
    ranks: dict[str, list[int]] = {}
    for rank, host in enumerate(hosts):
        ranks.setdefault(host, []).append(rank)
    attempt = Attempt(
        number=number,
        began=_now(),
        hosts=ranks,
        process=os.getpid(),
        world_size=len(hosts),
        device=device,
        slurm=RecordedJob.here(),
        configuration=config.model_dump(mode="json"),
        data=data,
        start_digest=start_digest or (earlier.start_digest if earlier else None),
        software=Software.here(),
        first_step=step + 1,
    )
    _write(run, attempt)
    return attempt


def end(run: Path, attempt: Attempt, done: int, stopped_by: str | None, save_seconds: float = 0.0) -> None:
    """Record an end in order at `done` steps: all done, or stopped, by a signal's name or "time limit"."""
    cause = "done" if stopped_by is None else _SIGNALS.get(stopped_by, "stopped")
    facts = {"cause": cause, "detail": stopped_by or "", "save_seconds": save_seconds}
    _write(run, _ended(run, attempt, done, ended=_now(), **facts))


def note_failure(run: Path, number: int, rank: int, error: BaseException) -> None:
    """Write this rank's error record beside the record of attempt `number`; never raises."""
    error = refusal(error) or error
    message = " ".join(f"{error}".split())
    failure = Failure(
        rank=rank,
        host=socket.gethostname(),
        when=time.time(),
        cause=_cause(error),
        detail=(message if isinstance(error, FmctError) else f"{type(error).__name__}: {message}")[:500],
        exit_code=getattr(error, "exit_code", 1),
        lost_another=not isinstance(error, FmctError) and any(part in message for part in _LOST),
    )
    try:
        write_text(run / "attempts" / f"{number:04d}.rank-{rank:05d}.json", failure.model_dump_json())
    except OSError as problem:
        log.warning("rank %d: its failure is not on record: %s", rank, problem)


def conclude(
    run: Path,
    cause: Cause = "killed",
    detail: str = "",
    failed_rank: int | None = None,
    exit_code: int | None = None,
) -> Attempt | None:
    """Give the newest attempt its end, where it has none, and return it; None where the run has no attempt.

    The caller must know that it is over. What ranks said when they failed counts more than `cause`; `stopped`
    gives way to a `cause` that says by whom.
    """
    found = attempts(run)
    if not found:
        return None
    attempt = found[-1]
    if attempt.ended is not None:
        if attempt.cause != "stopped" or cause not in _BY_WHOM:
            return attempt
        attempt = attempt.model_copy(update={"cause": cause})
    else:
        first = _first_failure(run, attempt)
        if first is not None:
            cause, detail = first.cause, first.detail
            failed_rank, exit_code = first.rank, first.exit_code
        elif (hung := _hung(run, attempt)) is not None:
            cause, detail = "hang", f"rank {hung} wrote hangs/rank-{hung:05d}.txt"
        done, when = _last_step(run, attempt)
        facts = {"cause": cause, "detail": detail, "failed_rank": failed_rank, "exit_code": exit_code}
        attempt = _ended(run, attempt, done, ended=when, **facts)
    _write(run, attempt)
    return attempt


def last_figures(run: Path) -> dict[str, float]:
    """The figures of the last step on record (metrics.jsonl); empty where there is none."""
    try:
        with (run / "metrics.jsonl").open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 65536))
            lines = stream.read().splitlines()
    except OSError:
        return {}
    return next(filter(None, map(figures_of, reversed(lines))), {})


def _paths(run: Path) -> list[Path]:
    return sorted((run / "attempts").glob("[0-9]" * 4 + ".json"))


def _write(run: Path, attempt: Attempt) -> None:
    write_text(run / "attempts" / f"{attempt.number:04d}.json", attempt.model_dump_json(indent=1) + "\n")


def _ended(run: Path, attempt: Attempt, done: int, **facts: Any) -> Attempt:
    return attempt.model_copy(update={"last_step": done, "saved_step": newest_step(run), **facts})


def _cause(error: BaseException) -> Cause:
    typed: tuple[tuple[type[BaseException], Cause], ...] = (
        (NoRoomError, "no room"),
        (DamagedDataError, "damaged data"),
        (UnsoundError, "unsound"),
        (UnavailableError, "crash"),
        (LostProcessError, "crash"),
        (FmctError, "refused"),
    )
    return next((cause for kind, cause in typed if isinstance(error, kind)), "crash")


def _first_failure(run: Path, attempt: Attempt) -> Failure | None:
    """The failure that the others followed from; None where no rank could say anything of use."""
    said = []
    for path in (run / "attempts").glob(f"{attempt.number:04d}.rank-*.json"):
        try:
            said.append(Failure.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            continue
    causes = [failure for failure in said if not failure.lost_another]
    return min(causes, key=lambda failure: failure.when, default=None)


def _hung(run: Path, attempt: Attempt) -> int | None:
    for path in sorted((run / "hangs").glob("rank-*.txt")):
        if path.stat().st_mtime >= attempt.began.timestamp():
            return int(path.stem.removeprefix("rank-"))
    return None


def _last_step(run: Path, attempt: Attempt) -> tuple[int, datetime]:
    """The last step that a killed attempt did, and when that was."""
    figures = last_figures(run)
    if figures.get("step", 0) >= attempt.first_step:
        written = datetime.fromtimestamp((run / "metrics.jsonl").stat().st_mtime, UTC)
        if written > attempt.began:
            return int(figures["step"]), written
    return attempt.first_step - 1, attempt.began


def _now() -> datetime:
    return datetime.now(UTC)
