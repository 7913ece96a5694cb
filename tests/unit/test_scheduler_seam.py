"""Slurm's variables and programs are used only behind `RunningJob` and `Scheduler`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.scheduler import Job, Scheduler
from launch.schedulers import scheduler
from launch.slurm.site import Resources
from shards.errors import FmctError
from shards.job import RunningJob, without_job

REPOSITORY = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for package in ("shards", "preprocess", "fmct_hpc", "launch")
    for path in (REPOSITORY / package).rglob("*.py")
)
VARIABLES = {"shards/slurm_job.py", "launch/slurm/submit.py"}
"""submit.py writes them into batch scripts, for the shell."""
PROGRAMS = {
    *("launch/slurm/scheduler.py", "launch/slurm/submit.py", "launch/slurm/partitions.py"),
    "launch/slurm/container.py",  # pyxis is a plugin of srun
    "launch/slurm/site.py",  # describes sbatch's options
}
NAMES = re.compile(
    r"(?<![./\w])(sbatch|srun|squeue|sacct|sacctmgr|scontrol|scancel|sinfo|slurmctld|slurmd)(?![/.\w])"
)
"""Slurm's programs, but not our sbatch files."""


def strings(path: Path) -> Iterator[str]:
    """The strings of a module, without docstrings."""
    tree = ast.parse(path.read_text())
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.value


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def test_slurm_variables_and_programs_are_used_in_its_implementation_only() -> None:
    assert {relative(path) for path in SOURCES if "SLURM_" in path.read_text()} == VARIABLES
    assert {relative(path) for path in SOURCES if any(map(NAMES.search, strings(path)))} == PROGRAMS


def test_the_stages_do_not_know_slurm() -> None:
    """Except for the key of a record, the layer of the same name, and the folder of progress records."""
    stages = [path for path in SOURCES if relative(path).split("/")[0] != "launch"]
    known = {
        relative(path) for path in stages if "slurm" in path.read_text().lower().replace("launch/slurm/", "")
    }
    assert known == {
        *("shards/slurm_job.py", "shards/job.py", "shards/layers.py"),
        "fmct_hpc/train/attempts.py",
    }


def test_only_the_selection_of_a_scheduler_imports_slurms_commands() -> None:
    own = re.compile(r"launch\.slurm(\.| import )(scheduler|submit|partitions)\b")
    importing = {relative(path) for path in SOURCES if own.search(path.read_text())}
    assert importing - PROGRAMS == {"launch/schedulers.py", "launch/doctor/site.py"}  # checks a site file


def test_the_scheduler_of_the_launcher_is_complete(tmp_path: Path) -> None:
    assert isinstance(scheduler(), Scheduler)
    with pytest.raises(FmctError, match="site"):
        scheduler().submit([Job("fmct-x", (("true",),), Resources())], tmp_path / "slurm")


def test_a_task_knows_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RunningJob.current() == RunningJob()
    variables = {
        **{"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"},
        **{"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"},
        **{"SLURM_RESTART_COUNT": "5", "SLURM_JOB_END_TIME": "1e3", "SLURM_JOB_NODELIST": "n[1-2]"},
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    job = RunningJob.current()
    assert (job.number, job.restarts, job.nodes) == ("12_3", 5, "n[1-2]")
    assert (job.rank, job.ranks, job.local_rank) == (1, 2, 0)
    assert job.end is not None
    assert (job.end.variable, job.end.seconds) == ("SLURM_JOB_END_TIME", 1000)
    assert without_job({**variables, "LOCAL_RANK": "0"}) == {"LOCAL_RANK": "0"}
    monkeypatch.setenv("SLURM_PROCID", "x")
    with pytest.raises(FmctError, match="SLURM_PROCID='x'"):
        RunningJob.current()


def test_a_scheduler_needs_no_specific_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMCT_JOB_RESTARTS", "2")
    assert RunningJob.current() == RunningJob()
    monkeypatch.setenv("FMCT_JOB_NUMBER", "7")
    assert RunningJob.current() == RunningJob("other", "7", 2, rank=0, ranks=1, local_rank=0)
    assert without_job({"FMCT_JOB_NUMBER": "7", "FMCT_LOG": "log"}) == {"FMCT_LOG": "log"}
    monkeypatch.setenv("FMCT_JOB_RESTARTS", "-1")
    with pytest.raises(FmctError, match="FMCT_JOB_RESTARTS='-1'"):
        RunningJob.current()
