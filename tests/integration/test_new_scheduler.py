"""docs/architecture.md, "How to add a scheduler", applied literally to a copy of the packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from documented_example import apply, copy_packages
from documents import REPOSITORY, blocks

HEADING = "How to add a scheduler"
DOCUMENT = REPOSITORY / "docs/architecture.md"
LINES = 59
"""Lines of the scheduler, without empty ones."""
USE = """
import sys, time
from pathlib import Path
from launch.scheduler import ALIVE, Job
from launch.schedulers import scheduler
from launch.jobs.requeue import read
from launch.slurm.site import Resources
from shards.job import RunningJob

python, out, local = sys.executable, Path("out"), scheduler()
assert RunningJob.current() == RunningJob()
work = "from shards.job import RunningJob as R; j = R.current(); print(j); exit(not j.restarts)"
first = Job("fmct-first", ((python, "-c", work),), Resources())
second = Job("fmct-second", ((python, "-c", "print(1)"),), Resources(), after_success=("fmct-first",))
sleeps = Job("fmct-sleeps", (("sleep", "500"),), Resources())
assert local.submit([first, second, sleeps], out / "slurm") == ["1", "2", "3"]
assert {job.state for job in local.jobs_known("2")} <= {"PENDING", "RUNNING"}

def until(number, *states):
    deadline = time.monotonic() + 100
    while (found := local.jobs_known(number)[0]).state not in states:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found

assert until("1", "COMPLETED", "FAILED").restarts == 1
until("2", "COMPLETED")
assert [job.number for job in local.queued()] == [until("3", "RUNNING").job]
assert [(e.start, e.cause, e.code) for e in read(out / "slurm", "1")] == [(0, "crash", 1)]
log = Path(local.jobs_known("1")[0].log).read_text()
assert all(f"number='1', restarts={start}" in log for start in (0, 1))
assert not local.cancel("3") and until("3", "CANCELLED").job == "3"
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages with the scheduler of the document."""
    folder = tmp_path_factory.mktemp("copy")
    copy_packages(folder)
    for language in ("python", "diff"):
        for block in blocks(DOCUMENT, language, HEADING):
            first, rest = block.split("\n", 1)
            path = folder / first.removeprefix("# ")
            assert path.exists() == (language == "diff")
            path.write_text(apply(rest, path.read_text()) if language == "diff" else rest)
            assert sum(map(bool, rest.splitlines())) <= LINES, path
    return folder


def call(copy: Path, folder: Path, *arguments: str) -> str:
    environment = {
        **os.environ,
        **{"PYTHONPATH": os.pathsep.join([str(copy), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"},
        **{"HOME": str(folder), "FMCT_BACKOFF_SECONDS": "1"},
    }
    result = subprocess.run(
        [sys.executable, "-P", *arguments],
        env=environment,
        cwd=folder,
        timeout=200,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_documented_scheduler_runs_requeues_and_shows_jobs(copy: Path, tmp_path: Path) -> None:
    call(copy, tmp_path, "-c", USE)
    shown = call(copy, tmp_path, "-m", "launch.cli", "launch", "status", "out")
    stages = [line.removeprefix("stage ") for line in shown.splitlines() if line.startswith("stage ")]
    assert stages == [
        "first, state done, job 1, queued again 1x",
        "second, state done, job 2",
        "sleeps, state cancelled, job 3",
    ]
    assert "job 1, start 0, cause crash" in shown
    assert (
        call(copy, tmp_path, "-m", "launch.cli", "launch", "cancel", "out")
        == "out: no pending or running jobs\n"
    )


def test_the_documented_scheduler_passes_the_formatter(copy: Path) -> None:
    settings = ("--config", str(REPOSITORY / "pyproject.toml"))
    files = [str(copy / path) for path in ("launch/local.py", "launch/schedulers.py")]
    call(copy, copy, "-m", "ruff", "check", *settings, *files)
    call(copy, copy, "-m", "ruff", "format", "--check", *settings, *files)
