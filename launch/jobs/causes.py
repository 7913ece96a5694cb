"""Why a start of a job ended: from its exit code, from its log, from the scheduler."""

import signal
from pathlib import Path

from fmct_hpc.train.attempts import Cause
from fmct_hpc.train.signals import EXIT_SAVED
from fmct_hpc.train.watchdog import EXIT_HUNG
from launch.scheduler import ENDED, Explained, Scheduler
from shards.errors import DiskFullError, FmctError, LostProcessError

LOG_BYTES = 1 << 20
"""How much of a log's end is searched for the scheduler's messages, and of its start to identify its job."""

_BY_CODE: dict[int, Cause] = {
    0: "done",
    EXIT_SAVED: "stopped",
    # The command was ended by SIGTERM before it could save: nearly always a preemption.
    15: "preempted",
    128 + signal.SIGTERM: "preempted",
    # Stages other than training do not handle the signal before the time limit.
    128 + signal.SIGUSR1: "time limit",
    128 + signal.SIGUSR2: "time limit",
    EXIT_HUNG: "hang",
    DiskFullError.exit_code: "no room",
    LostProcessError.exit_code: "crash",
    FmctError.exit_code: "refused",
}

_LOGGED = (FmctError.exit_code, DiskFullError.exit_code, LostProcessError.exit_code)
"""Exit codes for which the log has an error line of ours."""


def by_code(code: int, log: str, scheduler: Scheduler) -> Explained:
    """Explain a start whose batch script has seen its command's exit code; `log` is the start's log."""
    if code in _BY_CODE:
        message = error_line(log) if code in _LOGGED else ""
        return Explained(_BY_CODE[code], message or _describe_exit(code), None, code)
    return scheduler.failure(log, code) or Explained("crash", _describe_exit(code), None, code)


def by_scheduler(job: str, nodes: list[str], log: str, start: int, scheduler: Scheduler) -> Explained:
    """Explain start number `start` (0 is the first), which was ended together with its batch script."""
    past = scheduler.job_starts([job])
    state = past[start].state if past is not None and len(past) > start else ""
    # REQUEUED is also the state of a preempted job that was queued again.
    if state != "REQUEUED" and (explained := by_state(state, scheduler)):
        return explained
    if explained := scheduler.ended_by(log):
        return explained
    if down := scheduler.nodes_down(nodes):
        return Explained("node failure", f"down: {', '.join(down)}")
    if state:
        return Explained("requeued", "")
    return Explained("killed", f"no reason given by {scheduler.title}" if past is None else "")


def by_state(state: str, scheduler: Scheduler) -> Explained | None:
    """Explain a job that is over by its last state; None if that is not a final state."""
    return Explained(ENDED[state], f"{scheduler.title}: {state}") if state in ENDED else None


def log_of_start(path: Path | None, job: str, start: int) -> str:
    """The part of a job's log that belongs to one start, from the first line of its batch script."""
    if path is None:
        return ""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - LOG_BYTES))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    begins = f"fmct: job {job}, start {start},"
    return text.rpartition(begins)[2].partition(f"fmct: job {job}, start {start + 1},")[0]


def is_log(path: Path, job: str) -> bool:
    """Whether the file at `path`, named in a record, is a log written by the batch script of `job`."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            return f"fmct: job {job}, start ".encode() in stream.read(LOG_BYTES)
    except OSError:
        return False


def error_line(log: str) -> str:
    """The line that `fmct` ends with for an error that the user can fix (`launch.screen.user_errors`)."""
    lines = [line[6:] for line in log.splitlines() if line.startswith("fmct: ") and line[6:10] != "job "]
    return lines[-1] if lines else ""


def _describe_exit(code: int) -> str:
    if code in (0, EXIT_SAVED):
        return ""
    if 128 < code < 128 + signal.NSIG:
        return f"a rank was killed by {signal.Signals(code - 128).name}"
    return f"exit code {code}"
