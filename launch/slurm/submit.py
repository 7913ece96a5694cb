"""Submitting jobs to Slurm through submitit: the batch script, and its submission.

A job's pickle holds only a command line, no state: each Slurm task replaces itself by that command
(launch.task). So Slurm's signals reach the stage and not submitit, which ignores SIGTERM and acts only on
rank 0. Training that saved on a signal exits with 75. If a job did not succeed, its batch script
(launch/job.sh) calls launch/jobs/requeue.py, which queues it again or logs why not.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import UncompletedJobError

from launch.program import FMCT, PYTHON
from launch.scheduler import Job
from launch.slurm.container import require_visible, srun_options, wrapped
from launch.slurm.plain import require_plain, texts
from launch.slurm.site import Resources, Site
from launch.task import become
from shards.errors import FmctError
from shards.sharing import VARIABLE

JOB_SCRIPT = Path(__file__).parents[1] / "job.sh"
"""Shell functions of all batch scripts."""
SETUP = (
    f". {shlex.quote(str(JOB_SCRIPT))} || exit 2",
    f"fmct_program=({shlex.join(FMCT)})",
    "fmct_rendezvous",
)
FIND_MODULE = "type module > /dev/null 2>&1 || . /etc/profile"
"""A batch shell that is not a login shell may not have the command."""
STRAGGLER_SECONDS = 120
"""Ranks end together; when one has ended, srun kills the remaining ones after this long."""


def submit(job: Job, folder: Path, site: Site, numbers: Mapping[str, str]) -> str:
    """Submit `job` to Slurm; logs and submitit's files go to `folder`. Returns Slurm's job number.

    numbers: by name, those of the jobs that it depends on.
    Raises FmctError with Slurm's message if it rejects the job.
    """
    require_visible(site, folder, Path.cwd())
    try:
        executor = submitit.SlurmExecutor(folder, python=_python(site))
    except RuntimeError:
        raise FmctError("srun is not on the PATH: run this where jobs are submitted from") from None
    executor.update_parameters(**_parameters(job, folder, site, numbers))
    try:
        # Several submissions in one batch become one array, one becomes a plain job.
        with executor.batch():
            submitted = [executor.submit(become, command) for command in command_lines(job, site)]
    except UncompletedJobError as error:
        message = " ".join(str(error).split())
        raise FmctError(
            f"Slurm rejected {job.name} ({message}); check the site file, and that sbatch works here"
        ) from None
    return str(submitted[0].job_id).split("_")[0]


def script(job: Job, folder: Path, site: Site, numbers: Mapping[str, str] | None = None) -> str:
    """The exact script that sbatch gets for `job`; jobs that are not in `numbers` appear by name."""
    executor = _Renderer(folder, python=_python(site))
    executor.update_parameters(**_parameters(job, folder, site, numbers or {}))
    if len(job.commands) > 1:
        executor.parameters["map_count"] = len(job.commands)
    return str(executor._make_submission_file_text(executor._submitit_command_str, uid=""))


def describe(job: Job, folder: Path, site: Site, numbers: Mapping[str, str] | None = None) -> str:
    """The script that `submit` would give to sbatch, and the command of each of its tasks."""
    require_visible(site, folder, Path.cwd())
    parts = [f"### {job.name}, {job.size}: batch script\n{script(job, folder, site, numbers)}"]
    parts += [
        f"### {job.name}, task {number}\n{shlex.join(command)}"
        for number, command in enumerate(command_lines(job, site))
    ]
    return "\n".join(parts)


def command_lines(job: Job, site: Site) -> list[tuple[str, ...]]:
    """The commands of the tasks of `job`, wrapped for the site's container if there is one."""
    gpus, here = job.resources.gpus_per_node > 0, Path.cwd()
    return [wrapped(command, site, gpus, here) for command in job.commands]


class _Renderer(submitit.SlurmExecutor):
    """An executor that only renders scripts, so that it needs no Slurm."""

    @classmethod
    def affinity(cls) -> int:
        return 2


def _python(site: Site) -> str:
    """The Python command for submitit's part: this interpreter; with pyxis, the image's."""
    return shlex.join(("python3", *PYTHON[1:]) if _in_pyxis(site) else PYTHON)


def _in_pyxis(site: Site) -> bool:
    return site.container is not None and site.container.runtime == "pyxis"


def _parameters(job: Job, folder: Path, site: Site, numbers: Mapping[str, str]) -> dict[str, Any]:
    resources = job.resources
    if not isinstance(resources, Resources):
        raise TypeError(f"{job.name}: its resources are not those of a Slurm site file")
    # These run outside the container, if there is one.
    begin = shlex.join(["fmct_begin", "--folder", str(folder), *job.kept])
    mail = {"mail_user": site.mail.user, "mail_type": ",".join(site.mail.type)} if site.mail else {}
    further: dict[str, Any] = {"requeue": True}
    if job.after_success:
        further["kill-on-invalid-dep"] = "yes"
    further |= {**site.directives, **resources.directives}
    given: dict[str, Any] = {
        "job_name": job.name,
        "partition": resources.partition,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "account": site.account,
        "time": resources.time_minutes,
        "nodes": job.nodes,
        "ntasks_per_node": job.tasks_per_node,
        "cpus_per_task": resources.cpus_per_task,
        "gpus_per_node": resources.gpus_per_node or None,
        "mem": f"{round(resources.mem_gb * 1024)}M" if resources.mem_gb else None,
        "dependency": _dependency(job, numbers) or None,
        **mail,
        "signal_delay_s": site.warn_seconds,
        "array_parallelism": site.width,
        "stderr_to_stdout": True,
        "setup": [*_site_setup(site), *SETUP, begin],
        "teardown": [
            "code=$?",
            *([_mark(job.done)] if job.done else []),
            f'fmct_end "$code" --backoff {site.backoff_seconds}',
        ],
        "srun_args": [
            # Regardless of what SBATCH_EXPORT or a directive says about the environment.
            "--export=ALL",
            f"--wait={STRAGGLER_SECONDS}",
            # srun does not inherit the cores of a task from sbatch (since Slurm 22.05).
            f"--cpus-per-task={resources.cpus_per_task}",
            *srun_options(site, Path.cwd()),
        ],
        "additional_parameters": {name: value for name, value in further.items() if value is not False},
    }
    given = {name: value for name, value in given.items() if value is not None}
    _require_sound(job, folder, given)
    return given


def _require_sound(job: Job, folder: Path, given: dict[str, Any]) -> None:
    """Raise FmctError if a text would end its line of the script, or be interpreted by sbatch.

    All contents of the script come from `given` or `folder`, and commands are shown line by line.
    """
    require_plain(folder, "the output folder")
    require_plain(job, "the job")
    shell = {key: [line.replace("\t", " ") for line in given[key]] for key in ("setup", "teardown")}
    require_plain({**given, **shell}, "the batch script")
    quoted = {key: value for key, value in given.items() if key not in (*shell, "srun_args")}
    for place, text in texts({**quoted, "output": folder}):
        if "\\" in text or (place == "output" and "%" in text):
            raise FmctError(
                f"{place}: {text!r} contains a backslash or %, which sbatch interprets; choose another name"
            )


def _mark(done: Path) -> str:
    return (
        f'[ "$code" != 0 ] || touch {shlex.quote(str(done))}${{SLURM_ARRAY_TASK_ID:+.$SLURM_ARRAY_TASK_ID}}'
    )


def _dependency(job: Job, numbers: Mapping[str, str]) -> str:
    kinds = {"afterok": job.after_success, "afterany": job.after_end}
    return ",".join(
        ":".join([kind, *(numbers.get(name, name) for name in names)])
        for kind, names in kinds.items()
        if names
    )


def _site_setup(site: Site) -> list[str]:
    """Shell lines for a job's environment, from the site file."""
    lines = []
    if site.modules:
        lines.append(FIND_MODULE)
    for name in map(shlex.quote, site.modules):
        lines.append(f"module load {name} || {{ echo fmct: module load {name} failed >&2; exit 2; }}")
    lines += [f"export {name}={shlex.quote(value)}" for name, value in site.environment.items()]
    with_whom = site.privacy.share
    lines += [f"export {VARIABLE}={with_whom}"] if with_whom else []
    lines += [f"export TMPDIR={shlex.quote(str(site.scratch))}"] if site.scratch else []
    return [*lines, *site.setup]
