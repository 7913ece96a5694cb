"""The sbatch files run by bash, with fakes of Slurm's commands and of fmct on the PATH."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fmct_hpc.probe.sweep.grid import Unit
from fmct_hpc.probe.sweep.ledger import Plan as SweepPlan
from fmct_hpc.probe.sweep.ledger import UnitFiles, read_plan, write_plan
from fmct_hpc.probe.sweep.run import Sweep
from launch.commands.watch import watch_app
from launch.jobs.progress import progress
from launch.ranks import PORTS
from launch.slurm.submit import JOB_SCRIPT, SETUP
from preprocess.tasks import ledger
from preprocess.tasks.plan import Plan, Task
from shards.atomic import write_text
from shards.share import Share

FILES = sorted((Path(__file__).parents[2] / "launch/sbatch").glob("*.sbatch"))
SCONTROL = """\
case $* in
  "show hostnames"*) echo n1 ;;
  "show job"*) echo "   StdOut=/logs/12.out" ;;
  *) echo "NodeName=n1 NodeAddr=10.0.0.1 NodeHostName=n1" ;;
esac"""


FMCT = f"""\
if [ "$*" = "launch job-script" ]; then echo {JOB_SCRIPT}; exit; fi
echo "fmct FMCT_LOG=${{FMCT_LOG:-}} $*"
"""


@dataclass
class Ended:
    code: int
    lines: list[str]
    """Arguments of each call of a fake, after the variables in its environment."""


@dataclass
class Shell:
    """Runs an sbatch file as slurmd on a node does."""

    folder: Path

    def stand_in(self, command: str, script: str) -> None:
        path = self.folder / command
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    def run(self, file: Path, *arguments: str, **variables: str) -> Ended:
        environment = {
            **{"PATH": f"{self.folder}:{os.environ['PATH']}", "RUNS": "runs/a runs/b", "OUT": "probes"},
            **{"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "1"},
            **{"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "1", "SLURM_ARRAY_TASK_COUNT": "2"},
            **{"SLURM_JOB_NODELIST": "n1", **variables},
        }
        result = subprocess.run(
            ["bash", file, *arguments], env=environment, capture_output=True, text=True, timeout=60
        )
        return Ended(result.returncode, result.stdout.splitlines())


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path / "bin")
    shell.folder.mkdir()
    shell.stand_in("scontrol", SCONTROL)
    shell.stand_in(
        "srun",
        'echo "srun MASTER_ADDR=${MASTER_ADDR:-} $*"; echo "path ${PYTHONPATH-none} $PYTHONSAFEPATH"; '
        'echo "ledgers ${FMCT_LEDGERS-none} port ${MASTER_PORT-none}"',
    )
    shell.stand_in("fmct", FMCT)
    shell.stand_in("sleep", "")
    return shell


def test_the_command_prints_the_file_of_functions_that_all_batch_scripts_source() -> None:
    result = CliRunner().invoke(watch_app, ["job-script"])
    assert result.output.splitlines() == [str(JOB_SCRIPT)]
    assert JOB_SCRIPT.is_file()
    for file in FILES:
        assert '. "$(fmct launch job-script)"' in file.read_text()
    assert SETUP[0].startswith(f". {JOB_SCRIPT}")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_stage_gets_the_exports_of_its_batch_script_under_any_sbatch_option(
    shell: Shell, file: Path
) -> None:
    ended = shell.run(file, "--run", "runs/first", SLURM_EXPORT_ENV="NONE")
    [srun] = [line for line in ended.lines if line.startswith("srun ")]
    assert "--export=ALL" in srun.split(" fmct ")[0].split()
    assert ended.code == 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_cause_of_the_last_end_is_read_from_the_job_log(shell: Shell, file: Path) -> None:
    ended = shell.run(file, "--run", "runs/first", SLURM_RESTART_COUNT="1")
    [before] = [number for number, line in enumerate(ended.lines) if " launch before" in line]
    assert ended.lines[before].startswith("fmct FMCT_LOG=/logs/12.out ")
    assert ended.lines[before - 1].startswith("fmct: job 1"), "the first line of this start in the log"


BUSY = "echo 'slurm_load_jobs error: Socket timed out on send/recv operation' >&2; exit 1"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_unresponsive_slurmctld_does_not_stop_a_stage(shell: Shell, file: Path) -> None:
    shell.stand_in("scontrol", f'[ "$*" = "show hostnames n1" ] || {{ {BUSY}; }}\n{SCONTROL}')
    ended = shell.run(file, "--run", "runs/first")
    assert ended.code == 0
    [srun] = [line for line in ended.lines if line.startswith("srun ")]
    assert f"MASTER_ADDR={'n1' if file.stem == 'train' else ''} " in srun


def test_a_training_retries_a_busy_slurmctld_for_its_address(shell: Shell, tmp_path: Path) -> None:
    once = f"[ -e {tmp_path}/asked ] || {{ touch {tmp_path}/asked; {BUSY}; }}"
    shell.stand_in("scontrol", f'[[ "$*" != *"show node"* ]] || {once}\n{SCONTROL}')
    [train] = [file for file in FILES if file.stem == "train"]
    launched = tmp_path / "launched.sh"
    launched.write_text("\n".join([*SETUP, "srun train"]))
    for file in (train, launched):
        (tmp_path / "asked").unlink(missing_ok=True)
        output = "\n".join(shell.run(file, "--run", "runs/first").lines)
        assert "srun MASTER_ADDR=10.0.0.1 " in output
        assert f"port {PORTS[12 % len(PORTS)]}" in output


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_restart_policy_runs_before_and_after(shell: Shell, file: Path) -> None:
    shell.stand_in("srun", "exit 75")
    ended = shell.run(file, "--run", "runs/first", SLURM_RESTART_COUNT="1")
    policy = [line.split(" launch ")[1].strip() for line in ended.lines if " launch " in line]
    where = "--run runs/first" if file.stem == "train" else "--folder ."
    assert policy == [f"before {where}", f"after {where} --code 75"]
    assert ended.code == 75


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_stage_registers_its_ledgers_in_the_records_of_its_job(shell: Shell, file: Path) -> None:
    ended = shell.run(file, "--run", "runs/first")
    [where] = [line.split()[1] for line in ended.lines if line.startswith("ledgers ")]
    assert where == ("none" if file.stem == "train" else "./10_1.ledgers.json")


def test_a_batch_script_refused_beforehand_does_not_run_its_command(shell: Shell) -> None:
    shell.stand_in("fmct", FMCT + "exit 2")
    for file in FILES:
        ended = shell.run(file, "--run", "runs/first", SLURM_RESTART_COUNT="1")
        assert ended.code == 2
        assert not [line for line in ended.lines if line.startswith("srun ")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_stage_imports_python_from_the_working_folder(shell: Shell, file: Path) -> None:
    ended = shell.run(file, "--run", "runs/first", PYTHONPATH=":/code::/more:")
    assert "path /code:/more 1" in ended.lines


TASKS = 8


def array(numbers: str) -> dict[int, dict[str, str]]:
    """The variables of each task of `sbatch --array=NUMBERS`, by number."""
    parts = [part.split("-") for part in numbers.split(",")]
    members = [n for part in parts for n in range(int(part[0]), int(part[-1]) + 1)]
    facts = {"MIN": min(members), "MAX": max(members), "COUNT": len(members)}
    return {n: {f"SLURM_ARRAY_TASK_{k}": str(v) for k, v in {**facts, "ID": n}.items()} for n in members}


def preprocess_status(out: Path, done: set[int], monkeypatch: pytest.MonkeyPatch) -> str:
    tasks = tuple(Task(digest=f"{n:064x}"[::-1], rows=(n,)) for n in range(TASKS))
    write_text(out / "tasks/plan.json", Plan(settings="0" * 64, tasks=tasks).model_dump_json())
    facts: dict[str, Any] = {
        "series": 0,
        "volumes": 0,
        "rejected": {},
        "dropped_slices": {},
        "source_bytes": 0,
        "seconds": 0,
    }
    for number in done:
        place = ledger.files(out, number, tasks[number])
        for part in place.parts:
            part.touch()
        ledger.mark(place, ledger.TaskResult(digest=place.digest, shards={}, **facts))
    return str(ledger.status(out)).split("; to do: ")[1]


def sweep_status(out: Path, done: set[int], monkeypatch: pytest.MonkeyPatch) -> str:
    unit: dict[str, Any] = {
        "encoder": "e",
        "method": "logistic",
        "layer": 0,
        "pool": "cls",
        "fraction": 1.0,
        "shots": None,
    }
    units = tuple(Unit(**unit, seeds=(n,), tasks=("t",)) for n in range(TASKS))
    digests, tasks = tuple(f"{n:064d}"[::-1] for n in range(TASKS)), tuple((n,) for n in range(TASKS))
    shared: dict[str, Any] = {
        "units": units,
        "digests": digests,
        "seconds": (),
        "encoders": (),
        "leakage": (),
    }
    write_plan(out, SweepPlan(**shared, tasks=tasks))
    for number in done:
        write_text(UnitFiles(out, digests[number]).marker, "")
    monkeypatch.setattr(Sweep, "current_plan", lambda sweep: read_plan(sweep.out))
    monkeypatch.setattr(Sweep, "is_done", lambda sweep, plan, number: number in done)
    unread: Any = None  # the configuration, which the two above would load
    return Sweep(unread, out).status().split("; tasks to do: ")[1]


Status = Callable[[Path, set[int], pytest.MonkeyPatch], str]


@pytest.mark.parametrize("status", [preprocess_status, sweep_status])
@pytest.mark.parametrize("to_do", [{3, 7}, {0}, {0, 1, 2}, {0, 2}, {4, 5, 6}, set(range(TASKS))], ids=str)
def test_the_array_suggested_by_status_does_the_remaining_tasks(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: Status, to_do: set[int]
) -> None:
    marked = set(range(TASKS)) - to_do
    output = status(tmp_path / "out", marked, monkeypatch)
    [file] = [file for file in FILES if file.stem == status.__name__.removesuffix("_status")]
    does = {}
    for number, variables in array(output).items():
        ended = shell.run(file, "catalog", "--out", "out", **variables)
        [srun] = [line.split() for line in ended.lines if line.startswith("srun ")]
        if "--share" in srun:
            share = Share.parse(srun[srun.index("--share") + 1])
        else:
            share = Share.only(int(srun[srun.index("--task") + 1]))
        does[number] = set(share.part(range(TASKS)))
        actual = progress(tmp_path / "out", share)
        assert actual is not None
        assert (actual.done, actual.total) == (len(does[number] & marked), len(does[number]))
    assert set().union(*does.values()) >= to_do
    assert sum(map(len, does.values())) == len(set().union(*does.values())), "none twice"
