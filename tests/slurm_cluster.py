import subprocess
import time
from collections.abc import Callable

import pytest


class Cluster:
    """The Slurm that tests/cluster/start.sh started."""

    def wait(self, job: str, seconds: float = 90) -> str:
        """Wait until no task of `job` is queued or running; returns its state, for an array the worst."""
        self.until(lambda: not self.queued(job), seconds, f"job {job}")
        states = self.states(job)
        return next((state for state in states if state != "COMPLETED"), states[0])

    def queued(self, job: str) -> bool:
        """Whether a task of `job` is pending or running."""
        return bool(self.run("squeue", "--noheader", "--jobs", job))

    def states(self, job: str) -> list[str]:
        self.until(lambda: bool(self._accounting(job)), 20, f"accounting of job {job}")
        return self._accounting(job)

    def restarts(self, job: str) -> int:
        shown = self.run("scontrol", "show", "job", job)
        return int(shown.split("Restarts=")[1].split()[0])

    def until(self, reached: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > deadline:
                pytest.fail(f"{what}: not reached in {seconds} s\n{self.run('squeue')}")
            time.sleep(0.2)

    def _accounting(self, job: str) -> list[str]:
        shown = self.run("sacct", "--noheader", "--allocations", "--jobs", job, "--format", "State%30")
        states = [line.strip() for line in shown.splitlines()]
        return [] if any(state in ("PENDING", "RUNNING") for state in states) else states

    def run(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
