"""Slurm: its own commands behind the interface of `launch/scheduler.py`.

`scontrol` (slurmctld) knows jobs that are pending, running, or ended a few minutes ago (MinJobAge); `sacct`
(slurmdbd) knows all jobs, including earlier starts of a requeued job, if the site has accounting. Their
output may hold bytes that are not UTF-8, in a job's name or folder: paths keep them, as Python's own do; in
names and reasons they become replacement characters.
"""

import re
import subprocess
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fmct_hpc.train.signals import EXIT_SAVED
from launch.scheduler import Explained, Job, JobFacts, JobStart, Queued, Scheduler
from shards.errors import FmctError

if TYPE_CHECKING:
    from fmct_hpc.train.attempts import Cause
    from launch.site import Site
    from launch.slurm.site import Site as SlurmSite

ANSWER_SECONDS = 30.0
"""A controller that restarts or is busy may take this long."""

MESSAGES: "tuple[tuple[str, Cause], ...]" = (
    ("DUE TO PREEMPTION", "preempted"),
    ("error: Node failure on", "node failure"),
    ("DUE TO NODE FAILURE", "node failure"),
    ("DUE TO TIME LIMIT", "time limit"),
    ("DUE TO JOB REQUEUE", "requeued"),
)
"""Messages of slurmstepd and srun in the log of a job that Slurm ends."""


class Slurm(Scheduler):
    """Slurm; `site` is needed to submit jobs."""

    title = "Slurm"
    more_time = "time_minutes of the site file, sbatch --time"

    def __init__(self, site: "Site | None" = None) -> None:
        self._given = site

    @property
    def _site(self) -> "SlurmSite":
        from launch.slurm.site import Site  # what only watches jobs needs no pydantic

        if self._given is None:
            raise FmctError("a site file is needed to submit jobs: give --site")
        if not isinstance(self._given, Site):
            raise TypeError("the site is not one of Slurm")
        return self._given

    def submit_one(self, job: Job, folder: Path, numbers: dict[str, str]) -> str:
        """Submit `job` through submitit (launch/slurm/submit.py)."""
        from launch.slurm.submit import submit  # needs the layer [slurm]

        return submit(job, folder, self._site, numbers)

    def script(self, job: Job, folder: Path, numbers: dict[str, str]) -> str:
        """The batch script that sbatch would get, and the command of each task."""
        from launch.slurm.submit import describe

        return describe(job, folder, self._site, numbers)

    def jobs_known(self, number: str | None = None) -> list[JobFacts] | None:
        """Records of job `number`, or of all jobs that slurmctld knows; None if it does not answer.

        The list is empty for a number that it no longer knows.
        """
        command = ["scontrol", "show", "job", *([number] if number else [])]
        answer = _run_for_output(command)
        if answer is None:
            return None
        return [_job(record) for record in answer.split("\n\n") if "JobId=" in record]

    def queued(self) -> list[Queued] | None:
        """This user's pending and running jobs; None if Slurm does not answer."""
        answer = _run_for_output(["squeue", "--me", "--noheader", "--format", "%F|%T|%r|%j|%Z|%o"])
        if answer is None:
            return None
        jobs: dict[str, Queued] = {}
        for line in answer.splitlines():
            if line.count("|") < 5:
                continue
            number, state, reason, name, folder, command = line.split("|", 5)
            if number not in jobs or state != "PENDING":
                reason = "" if reason == "None" else _shown(reason)
                jobs[number] = Queued(number, _shown(name), state, reason, folder, command)
        return list(jobs.values())

    def job_starts(self, numbers: list[str]) -> list[JobStart] | None:
        """Every start of these jobs, oldest first; None if there is no accounting, or it does not answer."""
        if not numbers:
            return []
        fields = "JobID,State,ExitCode,Start,End,NodeList"
        command = ["sacct", "--noheader", "--parsable2", "--allocations", "--duplicates"]
        answer = _run_for_output([*command, "--jobs", ",".join(numbers), "--format", fields])
        if answer is None:
            return None
        rows = [line.split("|") for line in answer.splitlines() if line.count("|") == 5]
        return [
            JobStart(job, state.split()[0], code, _time(start), _time(end), nodes)
            for job, state, code, start, end, nodes in rows
            if state.strip()
        ]

    def nodes_down(self, names: list[str]) -> list[str] | None:
        """Those of the nodes that are down or not responding; None if slurmctld does not answer."""
        if not names:
            return []
        answer = _run_for_output(["scontrol", "--oneliner", "show", "node", ",".join(names)])
        if answer is None:
            return None
        nodes = re.findall(r"NodeName=(\S+).*? State=(\S+)", answer)
        return [name for name, state in nodes if "DOWN" in state or "NOT_RESPONDING" in state or "*" in state]

    def hostnames(self, nodes: str) -> list[str]:
        """n[1-3] as n1, n2, n3; empty if Slurm's commands are missing."""
        return (_run_for_output(["scontrol", "show", "hostnames", nodes]) or "").split()

    def cancel(self, number: str) -> str:
        """scancel(1)."""
        return _run_for_error("scancel", number)

    def requeue(self, number: str) -> str:
        """`scontrol requeue`."""
        return _run_for_error("scontrol", "requeue", number)

    def delay(self, number: str, seconds: float) -> str:
        """`scontrol update` of the earliest start, which only a pending job accepts."""
        return _run_for_error("scontrol", "update", f"JobId={number}", f"StartTime=now+{seconds:.0f}")

    def ended_by(self, log: str) -> Explained | None:
        """By the messages of slurmstepd and srun."""
        explanations = (
            Explained(cause, _line(log, message)) for message, cause in MESSAGES if message in log
        )
        return next(explanations, None)

    def failure(self, log: str, code: int) -> Explained | None:
        """By srun's messages: a node that failed, else the first rank that it reports as failed, and how."""
        if "error: Node failure on" in log:
            return Explained("node failure", _line(log, "error: Node failure on"), None, code)
        for nodes, ranks, how in re.findall(r"srun: error: (\S+): tasks? ([\d,\-]+): (.*)", log):
            if f"exit code {EXIT_SAVED}" not in how:
                rank = int(re.split("[,-]", ranks)[0])
                return Explained("crash", f"rank {rank} on {nodes}: {how.strip()}", rank, code)
        return None

    def on_node(self, command: str, gpus: int = 0) -> str:
        """srun(1)."""
        return f"srun --gpus={gpus} {command}" if gpus else f"srun {command}"


def _run_for_error(*words: str) -> str:
    """Run a Slurm command; returns its error message, empty on success."""
    try:
        result = _run(words)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{words[0]}: {error}"
    message = "" if result.returncode == 0 else " ".join((result.stderr or result.stdout or "failed").split())
    return _shown(message)


def _run_for_output(words: Sequence[str]) -> str | None:
    try:
        result = _run(words)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if result.returncode and "nvalid job id" in result.stderr:
        return ""
    return None if result.returncode else result.stdout


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
        waits=dependencies(short.get("Dependency", "")),
        command=long.get("Command", ""),
        folder=long.get("WorkDir", ""),
        log=long.get("StdOut"),
    )


def dependencies(text: str) -> tuple[str, ...]:
    """The job numbers of a dependency: 11, 12 for `afterok:11(unfulfilled),afterany:12_*(unfulfilled)`."""
    matches = (re.match("[0-9]+", word) for word in re.split("[,:?]", text))
    return tuple(dict.fromkeys(number[0] for number in matches if number))


def _time(text: str) -> datetime | None:
    """Slurm writes local time without a zone."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        return None


def _line(log: str, words: str) -> str:
    line = next(line for line in log.splitlines() if words in line)
    return line[line.index("error: ") + 7 :].strip(" *") if "error: " in line else line.strip()
