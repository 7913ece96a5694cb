"""The records of each attempt at a run: hosts, software, configuration, steps, and why it ended.

Rank 0 writes `attempts/0001.json` when the attempt begins, and again when it ends normally. A rank that fails
writes `attempts/0001.rank-00003.json`. The record of a killed attempt, which could write neither, is
completed by the launcher, which knows the scheduler's state, or by the next attempt. Nothing here needs
torch.
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
    DiskFullError,
    FmctError,
    LostProcessError,
    UnavailableError,
    UnhealthyRunError,
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
    "hang",  # no step completed within run.hang_minutes
    "no room",  # a full disk or quota
    "damaged data",
    "unsound",  # not finite, or collapsed, where health is configured to stop the run
    "refused",  # any other error that a user can correct
    "killed",  # cause unknown
]

_SIGNALS: dict[str, Cause] = {
    "SIGUSR1": "time limit",
    "SIGUSR2": "time limit",
    "time limit": "time limit",
}
"""Schedulers warn by SIGUSR1 or SIGUSR2; the sender of a SIGTERM is unknown."""

_BY_WHOM = ("preempted", "time limit", "requeued", "cancelled")
"""Causes that replace "stopped" once the scheduler reports them."""

_LOST = ("onnection closed by peer", "onnection reset by peer", "roken pipe", "Socket Timeout", "NCCL")
"""Words in the message of a rank that failed only because another one died."""


class RecordedJob(Closed):
    """The scheduler job of an attempt, from its environment."""

    job: Annotated[str, StringConstraints(pattern=r"^[0-9]+(_[0-9]+)?$")]
    """Job number; 12_3 for a task of an array."""
    restarts: int
    """How often the scheduler has restarted this job."""
    cluster: str | None
    partition: str | None
    account: str | None
    qos: str | None
    nodes: Annotated[str, StringConstraints(pattern="^[^-]")] | None
    """In the scheduler's notation: n[1-4]."""
    log: str | None
    """The job's log, if its batch script sets FMCT_LOG."""

    @classmethod
    def current(cls) -> "RecordedJob | None":
        """The job of this process; None outside a job. Invalid UTF-8 becomes replacement characters."""
        job, log = RunningJob.current(), os.environ.get("FMCT_LOG")
        if job.number is None or job.rank is None:  # processes of a job have both
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
    """Rank 0's device."""
    slurm: RecordedJob | None
    """The job, of any scheduler (the key keeps its first name). None outside a job."""
    configuration: dict[str, Any]
    """The complete TrainConfig, parts of which may change between attempts."""
    data: DataFacts
    """Digests of the training volumes."""
    start_digest: str | None
    """Digest of the weights that the run started from (`checkpoint.InitialWeights`); None: random weights."""
    software: Software
    first_step: int
    """The first step, counted from 1: the one after the checkpoint that the attempt resumes from."""
    ended: datetime | None = None
    """None while it runs. For a killed attempt: when its last step ended."""
    last_step: int | None = None
    """The last completed step; first_step - 1 if there was none."""
    saved_step: int | None = None
    """Step of the newest checkpoint at the end; later steps are lost."""
    save_seconds: float = 0.0
    """Duration of the longest save of this or an earlier attempt; 0 after an abnormal end."""
    cause: Cause | None = None
    detail: str = ""
    """The error or the signal, as text."""
    failed_rank: int | None = None
    """The rank that failed first."""
    exit_code: int | None = None
    """Exit code of that rank; above 128: 128 + the signal's number."""

    @field_validator("configuration")
    @classmethod
    def _has_steps(cls, configuration: dict[str, Any]) -> dict[str, Any]:
        """Require run.steps, the only key that is read from configurations of any version."""
        run = configuration.get("run")
        if not isinstance(run, dict) or type(run.get("steps")) is not int:
            raise ValueError("run.steps is missing")
        return configuration

    @property
    def steps(self) -> int | None:
        """Number of completed steps."""
        return None if self.last_step is None else self.last_step - self.first_step + 1

    @property
    def lost_steps(self) -> int | None:
        """Number of completed steps that must be repeated."""
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
    """Whether it failed only because another rank died."""


def attempts(run: Path) -> list[Attempt]:
    """All attempts at a run, oldest first; unreadable records are skipped with a warning."""
    readable = []
    for path in _paths(run):
        try:
            readable.append(Attempt.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError) as error:
            raise_refusal(error, path)
            log.warning("%s: damaged, or written by another version of fmct-hpc; skipped", path)
    return readable


def begin(
    run: Path,
    config: "TrainConfig",
    data: DataFacts,
    hosts: list[str],
    step: int,
    device: str = "cpu",
    start_digest: str | None = None,
) -> Attempt:
    """Record the start of an attempt after `step` steps, with one rank per entry of `hosts`; rank 0 calls it.

    start_digest: of the weights that the run started from; None: as in the previous attempt. Earlier attempts
    without an end are concluded as killed.
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
        slurm=RecordedJob.current(),
        configuration=config.model_dump(mode="json"),
        data=data,
        start_digest=start_digest or (earlier.start_digest if earlier else None),
        software=Software.current(),
        first_step=step + 1,
    )
    _write(run, attempt)
    return attempt


def end(run: Path, attempt: Attempt, done: int, stopped_by: str | None, save_seconds: float = 0.0) -> None:
    """Record a normal end after `done` steps; stopped_by: a signal's name or "time limit"; None: all done."""
    cause = "done" if stopped_by is None else _SIGNALS.get(stopped_by, "stopped")
    facts = {"cause": cause, "detail": stopped_by or "", "save_seconds": save_seconds}
    _write(run, _with_end(run, attempt, done, ended=_now(), **facts))


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
        log.warning("rank %d: can't write its error record: %s", rank, problem)


def conclude(
    run: Path,
    cause: Cause = "killed",
    detail: str = "",
    failed_rank: int | None = None,
    exit_code: int | None = None,
) -> Attempt | None:
    """Record the end of the newest attempt, if it has none, and return it; None for a run without attempts.

    The caller must know that the attempt is over. Error records of ranks take precedence over `cause`; a
    cause of `stopped` is replaced by one that names the initiator.
    """
    recorded = attempts(run)
    if not recorded:
        return None
    attempt = recorded[-1]
    if attempt.ended is not None:
        if attempt.cause != "stopped" or cause not in _BY_WHOM:
            return attempt
        attempt = attempt.model_copy(update={"cause": cause})
    else:
        first = _first_failure(run, attempt)
        if first is not None:
            cause, detail = first.cause, first.detail
            failed_rank, exit_code = first.rank, first.exit_code
        elif (hang_rank := _hang_rank(run, attempt)) is not None:
            cause, detail = "hang", f"rank {hang_rank} wrote hangs/rank-{hang_rank:05d}.txt"
        done, when = _last_step(run, attempt)
        facts = {"cause": cause, "detail": detail, "failed_rank": failed_rank, "exit_code": exit_code}
        attempt = _with_end(run, attempt, done, ended=when, **facts)
    _write(run, attempt)
    return attempt


def last_figures(run: Path) -> dict[str, float]:
    """The figures of the last step in metrics.jsonl; empty if there is none."""
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


def _with_end(run: Path, attempt: Attempt, done: int, **facts: Any) -> Attempt:
    return attempt.model_copy(update={"last_step": done, "saved_step": newest_step(run), **facts})


def _cause(error: BaseException) -> Cause:
    typed: tuple[tuple[type[BaseException], Cause], ...] = (
        (DiskFullError, "no room"),
        (DamagedDataError, "damaged data"),
        (UnhealthyRunError, "unsound"),
        (UnavailableError, "crash"),
        (LostProcessError, "crash"),
        (FmctError, "refused"),
    )
    return next((cause for kind, cause in typed if isinstance(error, kind)), "crash")


def _first_failure(run: Path, attempt: Attempt) -> Failure | None:
    """The first failure, which caused the others; None without an informative error record."""
    failures = []
    for path in (run / "attempts").glob(f"{attempt.number:04d}.rank-*.json"):
        try:
            failures.append(Failure.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            continue
    causes = [failure for failure in failures if not failure.lost_another]
    return min(causes, key=lambda failure: failure.when, default=None)


def _hang_rank(run: Path, attempt: Attempt) -> int | None:
    for path in sorted((run / "hangs").glob("rank-*.txt")):
        if path.stat().st_mtime >= attempt.began.timestamp():
            return int(path.stem.removeprefix("rank-"))
    return None


def _last_step(run: Path, attempt: Attempt) -> tuple[int, datetime]:
    """The last completed step of a killed attempt, and its time."""
    figures = last_figures(run)
    if figures.get("step", 0) >= attempt.first_step:
        written = datetime.fromtimestamp((run / "metrics.jsonl").stat().st_mtime, UTC)
        if written > attempt.began:
            return int(figures["step"]), written
    return attempt.first_step - 1, attempt.began


def _now() -> datetime:
    return datetime.now(UTC)
