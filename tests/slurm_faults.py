"""Faults on a Slurm whose nodes are all on this host: lost nodes, killed processes, preemption."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from slurm_cluster import Cluster
from slurm_training import SITE

from launch.scheduler import Job
from launch.slurm.scheduler import Slurm
from launch.slurm.site import Resources


def processes(job: str, program: str = "", **variables: str) -> list[int]:
    """Processes of a job, by variables of their environment; all nodes are on this host."""
    wanted = {f"{name}={value}" for name, value in {"SLURM_JOB_ID": job, **variables}.items()}
    matching = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = set((process / "environ").read_text(errors="replace").split("\0"))
            named = (process / "cmdline").read_text(errors="replace")
        except OSError:
            continue
        if wanted <= environment and program in named:
            matching.append(int(process.name))
    return matching


def parent(process: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def is_slurmstepd(process: int) -> bool:
    """The process of slurmd for each step on each node, which reports the step's end to slurmctld."""
    with suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text().startswith("slurmstepd")
    return False


def daemon(name: str) -> int:
    return int((Path(os.environ["FMCT_CLUSTER_DIR"]) / "pid" / f"{name}.pid").read_text())


def restart(*command: str) -> None:
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(command, check=True, env=environment, timeout=60)


Lose = Callable[[str, str], None]
"""Takes a node from a job."""


@pytest.fixture
def node_to_lose(cluster: Cluster) -> Iterator[Lose]:
    """Takes a node down, as a power cut does; restores it afterwards."""
    lost: list[str] = []

    def lose(node: str, job: str) -> None:
        lost.append(node)
        os.kill(daemon(f"slurmd-{node}"), signal.SIGKILL)
        running = processes(job, SLURMD_NODENAME=node)  # ranks, batch script, srun
        for process in [*filter(is_slurmstepd, map(parent, running)), *running]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        subprocess.run(["scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=power"], check=True)

    yield lose
    for node in lost:
        restart("slurmd", "-N", node)
        subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], check=False)
        idle = lambda node=node: "idle" in cluster.run("sinfo", "-hn", node, "-o", "%T", "-p", "low")  # noqa: E731
        cluster.until(idle, 150, f"node {node}")


def preempt(cluster: Cluster, folder: Path) -> None:
    urgent = Job("urgent", ((sys.executable, "-c", "pass"),), Resources(partition="high", cpus_per_task=4), 4)
    (number,) = Slurm(SITE).submit([urgent], folder)
    assert cluster.wait(number) == "COMPLETED"


def program(path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a shell script first on the PATH, also of jobs."""
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


def wait_for_job_to_leave(cluster: Cluster, job: str) -> None:
    cluster.until(lambda: "JobState=RUNNING" not in cluster.run("scontrol", "show", "job", job), 60, "end")
