"""Giving stages to Slurm through submitit, as the same `fmct` command lines that run locally.

A job's state never comes from its pickle, which holds only a command line: each Slurm task turns itself into
that command (exec). So Slurm's signals reach the stage and not submitit, which ignores SIGTERM and lets only
rank 0 act. Training that saved on a signal exits with 75. When a job has ended in any way but well, its batch
script asks launch/requeue.py, which queues it again or says why not.
"""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import UncompletedJobError

from fmct_hpc.config import ProbeConfig, TrainConfig
from launch.config import load
from launch.site import Resources, Site
from preprocess.config import PreprocessConfig
from preprocess.plan import plan
from shards.errors import FmctError

SETUP = (
    'export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"',
    # Rank 0 listens on the job's first node, by the address at which Slurm itself reaches that node
    # (a node's name need not resolve), on a port that no other job has.
    'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
    "export MASTER_ADDR=$(scontrol --oneliner show node \"$first\" | sed 's/.* NodeAddr=\\([^ ]*\\).*/\\1/')",
    "export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))",
    "job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}",
    'export FMCT_LOG=$(scontrol show job "$job" | sed -n "s/^ *StdOut=//p")',
    # Where in the log this start begins.
    'echo "fmct: job $job, start ${SLURM_RESTART_COUNT:-0}, on $SLURM_JOB_NODELIST"',
)
STRAGGLER_SECONDS = 120
"""Ranks end together; when one has ended, srun ends those that still wait for it after this long."""


@dataclass(frozen=True)
class Job:
    """A Slurm job: one command, or an array of several, one an array task."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    resources: Resources
    nodes: int = 1
    tasks_per_node: int = 1
    run: Path | None = None
    """The run folder, of a training."""


def preprocess_jobs(
    catalog: Path, out: Path, config: Path | None, overrides: list[str], site: Site
) -> list[Job]:
    """An array over the shards to write, and a job that collects them. Plans here, in this process."""
    tasks = plan(catalog, out, load(PreprocessConfig, config, overrides))
    command = _fmct("preprocess", catalog, "--out", out, *_configuration(config, overrides))
    commands = tuple((*command, "--task", str(task)) for task in range(tasks))
    arrays = [commands[i : i + site.array_size] for i in range(0, tasks, site.array_size)]
    jobs = [Job("fmct-preprocess", array, site.preprocess) for array in arrays]
    return [*jobs, Job("fmct-collect", ((*command, "--collect"),), site.preprocess)]


def train_jobs(
    run: Path, config: Path | None, overrides: list[str], nodes: int, ranks_per_node: int, site: Site
) -> list[Job]:
    """One job of nodes × ranks_per_node ranks; a wrong configuration shows here, not in the queue."""
    load(TrainConfig, config, overrides).accumulation(nodes * ranks_per_node)
    command = _fmct("train", "--run", run, *_configuration(config, overrides))
    return [Job("fmct-train", (command,), site.train, nodes, ranks_per_node, run)]


def probe_jobs(
    runs: list[Path], out: Path, config: Path | None, overrides: list[str], site: Site
) -> list[Job]:
    """An array over run folders; each run's results go to `out`/<the run folder's name>, one run's to `out`.

    Raises FmctError when two run folders have the same name.
    """
    load(ProbeConfig, config, overrides)
    if len({run.resolve().name for run in runs}) < len(runs):
        raise FmctError(
            "two of the run folders have the same name, so their results would collide; rename one"
        )
    outs = [out / run.resolve().name for run in runs] if len(runs) > 1 else [out]
    configuration = _configuration(config, overrides)
    commands = tuple(
        _fmct("probe", run, "--out", one, *configuration) for run, one in zip(runs, outs, strict=True)
    )
    return [Job("fmct-probe", commands, site.probe)]


def submit(jobs: list[Job], folder: Path, site: Site) -> list[str]:
    """Give `jobs` to Slurm, each to start when the one before has ended, however it ended.

    Logs and submitit's files go to `folder`. Returns Slurm's job numbers.
    Raises FmctError with Slurm's own words when it refuses a job.
    """
    numbers: list[str] = []
    for job in jobs:
        executor = _executor(job, folder, site, after=numbers[-1] if numbers else None)
        try:
            # Several submissions in one batch become one array, one becomes a plain job.
            with executor.batch():
                submitted = [executor.submit(os.execvp, command[0], command) for command in job.commands]
        except UncompletedJobError as error:
            said = " ".join(str(error).split())
            raise FmctError(
                f"Slurm refused {job.name} ({said}); check the site file's keys, and that sbatch works here"
            ) from None
        numbers.append(str(submitted[0].job_id).split("_")[0])
    return numbers


def describe(jobs: list[Job]) -> str:
    """What `submit` would give to Slurm, in words: one line a job."""
    lines = []
    for job in jobs:
        size = f"array of {len(job.commands)} tasks" if len(job.commands) > 1 else "one task"
        if job.nodes * job.tasks_per_node > 1:
            size = f"{job.nodes} nodes of {job.tasks_per_node} ranks"
        where = job.resources.partition or "the default partition"
        lines.append(f"{job.name}: {size} on {where}: {shlex.join(job.commands[0])}")
    return "\n".join(lines)


def _fmct(*arguments: str | Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "launch.cli", *(str(argument) for argument in arguments))


def _configuration(config: Path | None, overrides: list[str]) -> list[str]:
    return [*(["--config", str(config)] if config else []), *overrides]


def _executor(job: Job, folder: Path, site: Site, after: str | None) -> submitit.SlurmExecutor:
    try:
        executor = submitit.SlurmExecutor(folder)
    except RuntimeError:
        raise FmctError("srun is not on the PATH: run this where jobs are submitted from") from None
    resources = job.resources
    run = ("--run", job.run) if job.run else ()
    again, ended = (
        shlex.join(_fmct("launch", word, "--folder", folder, *run)) for word in ("before", "after")
    )
    given: dict[str, Any] = {
        "partition": resources.partition,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "account": site.account,
        "gpus_per_node": resources.gpus_per_node or None,
        "mem": f"{round(resources.mem_gb * 1024)}M" if resources.mem_gb else None,
        "dependency": f"afterany:{after}" if after else None,
    }
    executor.update_parameters(
        job_name=job.name,
        time=resources.time_minutes,
        nodes=job.nodes,
        ntasks_per_node=job.tasks_per_node,
        cpus_per_task=resources.cpus_per_task,
        signal_delay_s=site.warn_seconds,
        array_parallelism=site.width,
        stderr_to_stdout=True,
        setup=[*site.setup, f'[ -z "${{SLURM_RESTART_COUNT:-}}" ] || {again} || exit 2', *SETUP],
        teardown=[
            "code=$?",
            f'[ "$code" = 0 ] || {ended} --backoff {site.backoff_seconds} --code "$code"',
            'exit "$code"',
        ],
        # srun does not take the cores of a task from sbatch (since Slurm 22.05).
        srun_args=[f"--wait={STRAGGLER_SECONDS}", f"--cpus-per-task={resources.cpus_per_task}"],
        additional_parameters={"requeue": True, **resources.directives},
        **{name: value for name, value in given.items() if value is not None},
    )
    return executor
