"""The sbatch files under bash, with stand-ins on the PATH for Slurm's commands and for fmct."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from launch.slurm.submit import SETUP

FILES = sorted((Path(__file__).parents[2] / "launch/sbatch").glob("*.sbatch"))
SCONTROL = """\
case $* in
  "show hostnames"*) echo n1 ;;
  "show job"*) echo "   StdOut=/logs/12.out" ;;
  *) echo "NodeName=n1 NodeAddr=10.0.0.1 NodeHostName=n1" ;;
esac"""


@dataclass
class Ended:
    code: int
    said: list[str]
    """Of stand-ins: what they were called with, after the variables that they saw."""


@dataclass
class Shell:
    """Where an sbatch file is run as a node's slurmd would."""

    folder: Path

    def stand_in(self, command: str, script: str) -> None:
        path = self.folder / command
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    def run(self, file: Path, *arguments: str, **variables: str) -> Ended:
        environment = {
            **{"PATH": f"{self.folder}:{os.environ['PATH']}", "RUNS": "runs/a runs/b", "OUT": "probes"},
            **{"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "1"},
            **{"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_JOB_NODELIST": "n1", **variables},
        }
        done = subprocess.run(
            ["bash", file, *arguments], env=environment, capture_output=True, text=True, timeout=60
        )
        return Ended(done.returncode, done.stdout.splitlines())


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path / "bin")
    shell.folder.mkdir()
    shell.stand_in("scontrol", SCONTROL)
    shell.stand_in("srun", 'echo "srun MASTER_ADDR=${MASTER_ADDR:-} $*"')
    shell.stand_in("fmct", 'echo "fmct FMCT_LOG=${FMCT_LOG:-} $*"')
    shell.stand_in("sleep", "")
    return shell


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_stage_gets_what_its_batch_script_exports_whatever_sbatch_was_told(shell, file):
    ended = shell.run(file, "--run", "runs/first", SLURM_EXPORT_ENV="NONE")
    [srun] = [line for line in ended.said if line.startswith("srun ")]
    assert "--export=ALL" in srun.split(" fmct ")[0].split()
    assert ended.code == 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_ended_the_last_start_is_looked_for_in_the_jobs_log(shell, file):
    ended = shell.run(file, "--run", "runs/first", SLURM_RESTART_COUNT="1")
    [before] = [number for number, line in enumerate(ended.said) if " launch before" in line]
    assert ended.said[before].startswith("fmct FMCT_LOG=/logs/12.out ")
    assert ended.said[before - 1].startswith("fmct: job 1"), "where this start begins in the log"


BUSY = "echo 'slurm_load_jobs error: Socket timed out on send/recv operation' >&2; exit 1"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_slurmctld_that_does_not_answer_keeps_no_stage_from_running(shell, file):
    shell.stand_in("scontrol", f'[ "$*" = "show hostnames n1" ] || {{ {BUSY}; }}\n{SCONTROL}')
    ended = shell.run(file, "--run", "runs/first")
    assert ended.code == 0
    [srun] = [line for line in ended.said if line.startswith("srun ")]
    assert f"MASTER_ADDR={'n1' if file.stem == 'train' else ''} " in srun


def test_a_training_asks_a_busy_slurmctld_again_for_its_address(shell, tmp_path):
    once = f"[ -e {tmp_path}/asked ] || {{ touch {tmp_path}/asked; {BUSY}; }}"
    shell.stand_in("scontrol", f'[[ "$*" != *"show node"* ]] || {once}\n{SCONTROL}')
    [train] = [file for file in FILES if file.stem == "train"]
    launched = tmp_path / "launched.sh"
    launched.write_text("\n".join([*SETUP, "srun train"]))
    for file in (train, launched):
        (tmp_path / "asked").unlink(missing_ok=True)
        assert "srun MASTER_ADDR=10.0.0.1 " in "\n".join(shell.run(file, "--run", "runs/first").said)


@pytest.mark.parametrize(
    ("stage", "arguments", "task", "told"),
    [
        ("probe", ["data=d"], "1", "--probe probes/b"),
        ("sweep", ["r.yaml", "--out", "o"], "1", "--sweep r.yaml --out o"),
        ("sweep", ["r.yaml", "--out", "o", "--extract", "-1"], "", "r.yaml --out o --extract -1"),
        ("sweep", ["r.yaml", "--out", "o", "--collect"], "", ""),
    ],
)
def test_a_stage_tells_where_it_keeps_what_it_has_done(shell, stage, arguments, task, told):
    shell.stand_in("srun", "exit 75")
    [file] = [file for file in FILES if file.stem == stage]
    ended = shell.run(file, *arguments, SLURM_RESTART_COUNT="1", SLURM_ARRAY_TASK_ID=task)
    policy = [line.split(" launch ")[1].strip() for line in ended.said if " launch " in line]
    assert policy == [f"before --folder . {told}".strip(), f"after --folder . --code 75 {told}".strip()]
    assert ended.code == 75
