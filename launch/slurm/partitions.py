"""Slurm queries of `fmct doctor --site`: partitions with their nodes, associations, limits, a trial."""

import math
import re
import shutil
import subprocess
from dataclasses import dataclass

from shards.errors import FmctError

NEEDED = ("sbatch", "srun", "squeue", "sinfo", "scontrol", "scancel")
TRIAL = "sbatch"
"""The program that `trial` runs."""
SECONDS = 60
"""Timeout; a busy controller answers late."""


@dataclass(frozen=True)
class Nodes:
    """Nodes of a partition with the same resources."""

    partition: str
    default: bool
    up: bool
    minutes: float
    """The partition's time limit."""
    cores: int
    memory_mib: int
    gpus: int
    features: frozenset[str]


@dataclass(frozen=True)
class Association:
    """An account, partition and QoS that the user may submit with."""

    account: str
    partition: str
    """Empty: any."""
    qos: frozenset[str]


def query(*command: str, given: str | None = None) -> str:
    """The standard output of a Slurm command; FmctError with its error message if it fails."""
    if not shutil.which(command[0]):
        raise FmctError(f"{command[0]} is not on the PATH: run this where jobs are submitted from")
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, encoding="utf-8", errors="replace", timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise FmctError(f"{command[0]} does not answer in {SECONDS} s: ask the administrators") from None
    if done.returncode:
        message = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise FmctError(f"{command[0]}: {message}")
    return done.stdout


def nodes() -> list[Nodes]:
    """All kinds of nodes of all partitions."""
    listed = query("sinfo", "--noheader", "--exact", "--format=%P|%a|%l|%c|%m|%G|%f")
    return [_nodes(*line.split("|")) for line in listed.splitlines() if line.count("|") == 6]


def _nodes(name: str, up: str, limit: str, cores: str, memory: str, gres: str, features: str) -> Nodes:
    return Nodes(
        partition=name.rstrip("*"),
        default=name.endswith("*"),
        up=up == "up",
        minutes=minutes(limit),
        cores=int(cores.rstrip("+")),
        memory_mib=int(memory.rstrip("+")),
        gpus=sum(map(int, re.findall(r"gpu(?::[^:,()]+)?:(\d+)", gres))),
        features=frozenset(features.split(",")) - {"(null)"},
    )


def minutes(limit: str) -> float:
    """Slurm's [days-]hours:minutes:seconds, minutes:seconds or `infinite`, in minutes."""
    if not limit[:1].isdigit():
        return math.inf
    days, _, clock = limit.rpartition("-")
    hours, minute, second = ([0, 0, 0] + [int(part) for part in clock.split(":")])[-3:]
    return int(days or 0) * 1440 + hours * 60 + minute + second / 60


def associations(user: str) -> list[Association]:
    """The associations of `user`; FmctError if there is no accounting."""
    fields = "format=account,partition,qos"
    listed = query("sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}", fields)
    rows = [line.split("|") for line in listed.splitlines() if line.count("|") == 2]
    return [Association(account, partition, frozenset(qos.split(","))) for account, partition, qos in rows]


def setting(name: str) -> str | None:
    """A value of Slurm's configuration; None if it has no such key."""
    match = re.search(rf"^{name}\s*=\s*(.*)$", query("scontrol", "show", "config"), re.MULTILINE)
    return match[1].strip() if match else None


def version() -> str:
    """The version of Slurm's commands."""
    return query("sbatch", "--version").strip()


def has_pyxis() -> bool:
    """Whether srun has pyxis's options."""
    return "--container-image" in query("srun", "--help")


def trial(script: str) -> str:
    """Its message (`sbatch --test-only`) about a batch script that it would reject, else empty."""
    try:
        query(TRIAL, "--test-only", given=script)
    except FmctError as error:
        message = str(error).removeprefix("sbatch: ").replace("sbatch: error: ", "")
        return message.replace("allocation failure: ", "")
    return ""
