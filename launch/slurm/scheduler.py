"""Job information from Slurm's own commands; nothing here fails if Slurm does not answer.

`scontrol` (slurmctld) knows jobs that are pending, running, or ended a few minutes ago (MinJobAge); `sacct`
(slurmdbd) knows all jobs, including earlier starts of a requeued job, if the site has accounting. Their
output may hold bytes that are not UTF-8, in a job's name or folder: paths keep them, as Python's own do; in
names and reasons they become replacement characters.
"""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

ANSWER_SECONDS = 30.0
"""A controller that restarts or is busy may take this long."""

BACKOFF_SECONDS = 60.0
"""Delay before the restart of a job after its first failure; doubled with each consecutive failure."""

ALIVE = (
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "SUSPENDED",
    "COMPLETING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "STOPPED",
)
"""States of a job that is not over (squeue(1), JOB STATE CODES)."""


@dataclass(frozen=True)
class JobFacts:
    """One job, or several pending tasks of an array that Slurm reports in one record."""

    job: str
    """Slurm's number: 12; of an array task 12_3, of pending ones 12_[4-9]."""
    name: str
    state: str
    reason: str
    """Why it is pending; empty if it is not."""
    nodes: str
    restarts: int
    start: datetime | None
    """When it started, or is expected to start."""
    preempted: bool
    command: str
    folder: str
    log: str | None

    @property
    def array(self) -> str:
        """The job's number without the array's task."""
        return self.job.split("_")[0]


@dataclass(frozen=True)
class Queued:
    """A pending or running job of this user; an array counts as one."""

    number: str
    name: str
    state: str
    """RUNNING if any task is running."""
    reason: str
    """Why it is pending."""
    folder: str
    command: str


@dataclass(frozen=True)
class Accounted:
    """One start of a job, as accounting has it."""

    job: str
    state: str
    """One word: CANCELLED for `CANCELLED by 1000`."""
    exit_code: str
    """code:signal"""
    start: datetime | None
    end: datetime | None
    nodes: str


def jobs_known(number: str | None = None) -> list[JobFacts] | None:
    """Records of job `number`, or of all jobs that slurmctld knows; None if it does not answer.

    The list is empty for a number that it no longer knows.
    """
    command = ["scontrol", "show", "job", *([number] if number else [])]
    answer = _ask(command)
    if answer is None:
        return None
    return [_job(record) for record in answer.split("\n\n") if "JobId=" in record]


def queued() -> list[Queued] | None:
    """This user's pending and running jobs; None if Slurm does not answer."""
    answer = _ask(["squeue", "--me", "--noheader", "--format", "%F|%T|%r|%j|%Z|%o"])
    if answer is None:
        return None
    found: dict[str, Queued] = {}
    for line in answer.splitlines():
        if line.count("|") < 5:
            continue
        number, state, reason, name, folder, command = line.split("|", 5)
        if number not in found or state != "PENDING":
            reason = "" if reason == "None" else _shown(reason)
            found[number] = Queued(number, _shown(name), state, reason, folder, command)
    return list(found.values())


def accounted(numbers: list[str]) -> list[Accounted] | None:
    """Every start of these jobs, oldest first; None if there is no accounting, or it does not answer."""
    if not numbers:
        return []
    fields = "JobID,State,ExitCode,Start,End,NodeList"
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--duplicates"]
    answer = _ask([*command, "--jobs", ",".join(numbers), "--format", fields])
    if answer is None:
        return None
    rows = [line.split("|") for line in answer.splitlines() if line.count("|") == 5]
    return [
        Accounted(job, state.split()[0], code, _time(start), _time(end), nodes)
        for job, state, code, start, end, nodes in rows
        if state.strip()
    ]


def nodes_down(names: list[str]) -> list[str] | None:
    """Those of the nodes that are down or not responding; None if slurmctld does not answer."""
    if not names:
        return []
    answer = _ask(["scontrol", "--oneliner", "show", "node", ",".join(names)])
    if answer is None:
        return None
    found = re.findall(r"NodeName=(\S+).*? State=(\S+)", answer)
    return [name for name, state in found if "DOWN" in state or "NOT_RESPONDING" in state or "*" in state]


def hostnames(nodes: str) -> list[str]:
    """n[1-3] as n1, n2, n3; empty if Slurm's commands are missing."""
    return (_ask(["scontrol", "show", "hostnames", nodes]) or "").split()


def command(*words: str) -> str:
    """Run a Slurm command; returns its error message, empty on success."""
    try:
        done = _run(words)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{words[0]}: {error}"
    message = "" if done.returncode == 0 else " ".join((done.stderr or done.stdout or "failed").split())
    return _shown(message)


def _ask(words: Sequence[str]) -> str | None:
    try:
        done = _run(words)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "nvalid job id" in done.stderr:
        return ""
    return None if done.returncode else done.stdout


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, capture_output=True, encoding="utf-8", errors="surrogateescape", timeout=ANSWER_SECONDS
    )


def _shown(text: str) -> str:
    return text.encode(errors="surrogateescape").decode(errors="replace")


_FREE = re.compile(
    r"(?:^|(?<=\s))(JobName|\w*Comment|Command|WorkDir|StdErr|StdIn|StdOut)=(.*)$", re.MULTILINE
)
"""Keys of `scontrol show job` whose value is the rest of the line, with arbitrary text."""


def _job(record: str) -> JobFacts:
    """Parse a record of `scontrol show job`."""
    long: dict[str, str] = dict(_FREE.findall(record))
    short: dict[str, str] = dict(re.findall(r"(?:^|\s)([A-Za-z]+)=(\S*)", _FREE.sub("", record)))
    number: str = short.get("ArrayJobId") or short["JobId"]
    if "ArrayTaskId" in short:
        task = short["ArrayTaskId"].split("%")[0]
        number += f"_{task}" if task.isdigit() else f"_[{task}]"
    reason = short.get("Reason", "None")
    return JobFacts(
        job=number,
        name=_shown(long.get("JobName", "")),
        state=short.get("JobState", "UNKNOWN"),
        reason="" if reason == "None" else _shown(reason),
        nodes=short.get("NodeList", "").replace("(null)", ""),
        restarts=int(short.get("Restarts", 0)),
        start=_time(short.get("StartTime", "")),
        preempted=short.get("PreemptTime", "None") != "None",
        command=long.get("Command", ""),
        folder=long.get("WorkDir", ""),
        log=long.get("StdOut"),
    )


def _time(text: str) -> datetime | None:
    """Slurm writes local time without a zone."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        return None
