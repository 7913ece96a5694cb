"""Checks of a site file against the cluster's Slurm, container runtime and file systems."""

import getpass
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from launch.config import load
from launch.doctor.finding import Finding, Problem, fault, note, run_check
from launch.doctor.shared import locks
from launch.scheduler import Job
from launch.schedulers import scheduler
from launch.slurm import partitions
from launch.slurm.container import PROGRAMS
from launch.slurm.site import Resources, Site
from launch.slurm.submit import FIND_MODULE, script
from shards.atomic import sync, write_text
from shards.errors import FmctError
from shards.job import RunningJob

STAGES = [name for name, field in Site.model_fields.items() if field.annotation is Resources]
SIMPLE_CONSTRAINT = re.compile(r"[\w.-]+([&|][\w.-]+)*")
"""Feature names joined by & or |; other expressions are checked only by Slurm's trial."""


def check_site(path: Path) -> Iterator[Finding]:
    """All checks of a site file."""
    loaded: list[Site] = []
    yield run_check("site file", partial(_load, path, loaded))
    if not loaded:
        return
    site = loaded[0]
    yield run_check("PyTorch", lambda: _torch(site))
    yield run_check("container", lambda: _container(site))
    yield run_check("modules", lambda: _modules(site))
    for name, folder in (("scratch", site.scratch), ("cache", site.cache)):
        if folder:
            yield run_check(name, partial(_node_folder, folder))
    yield run_check("file system", lambda: _file_system(Path.cwd()))
    commands = run_check("Slurm's commands", _commands)
    yield commands
    if commands.level != "fault":
        yield from _check_slurm(site)


def _check_slurm(site: Site) -> Iterator[Finding]:
    nodes: list[partitions.Nodes] = []
    yield run_check("controller", partial(_controller, nodes))
    if not nodes:
        return
    yield run_check("account", lambda: _account(site))
    yield run_check("array_size", lambda: _array_size(site))
    for stage in STAGES:
        resources: Resources = getattr(site, stage)
        fits = run_check(stage, partial(_stage, stage, resources, nodes))
        # Slurm's trial knows limits that no listing shows; known faults it reports less clearly.
        if fits.level == "ok":
            trial = run_check(stage, partial(_trial, stage, resources, site))
            fits = (
                trial if trial.level == "fault" else fits._replace(message=f"{fits.message}; {trial.message}")
            )
        yield fits


def _load(path: Path, loaded: list[Site]) -> str:
    loaded.append(load(Site, path, []))
    return "all keys are valid"


def _torch(site: Site) -> str | Problem:
    if site.container or not (site.train.gpus_per_node or site.probe.gpus_per_node):
        return "not used on GPUs here"
    import torch

    if torch.version.cuda is None:
        return fault(
            f"train or probe request GPUs, but PyTorch {torch.__version__} here is built for CPUs",
            "unset PIP_EXTRA_INDEX_URL and PIP_FIND_LINKS, then bash launch/environment.sh .venv --gpu",
        )
    return f"built for CUDA {torch.version.cuda}"


def _container(site: Site) -> str | Problem:
    container = site.container
    if container is None:
        return "none: the stages run in this environment"
    program = PROGRAMS[container.runtime]
    if not shutil.which(program):
        return fault(f"{program} is not on the PATH", "add its module to modules, or use another runtime")
    if container.runtime == "pyxis" and not partitions.has_pyxis():
        return fault(f"{program} has no --container-image", "pyxis is not installed: use apptainer or enroot")
    image = Path(container.image)
    if container.image.startswith(("/", ".")) and not os.access(image, os.R_OK):
        return fault(f"{image} does not exist or is not readable", "correct container.image")
    missing = [bind for bind in container.binds if not Path(bind.split(":")[0]).exists()]
    if missing:
        return note(f"not on this node: {', '.join(missing)}", "none, if the compute nodes have them")
    return f"{container.runtime}, {container.image}"


def _modules(site: Site) -> str | Problem:
    """Load the modules as the batch script does."""
    failed = []
    for name in site.modules:
        line = f'{FIND_MODULE}; module load "$0"'
        done = subprocess.run(["bash", "-c", line, name], capture_output=True, timeout=partitions.SECONDS)
        if done.returncode:
            failed.append(name)
    if failed:
        return fault(f"module load fails for {', '.join(failed)}", "module avail lists the modules")
    return ", ".join(site.modules) or "none"


def _node_folder(folder: Path) -> str | Problem:
    """Check a folder on each node's local disk; a login node need not have it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, 2**20)
    except OSError as error:
        in_job = RunningJob.current().number is not None
        where = "a compute node" if in_job else "this node"
        message = f"{folder}: {os.strerror(error.errno or 0).lower()} on {where}"
        if in_job or folder.exists():
            return fault(message, "use a folder that users can write to")
        return note(message, f"check a compute node: {scheduler().on_node('fmct doctor --site SITE')}")
    return f"{folder}: writable, {shutil.disk_usage(folder).free / 1e9:.0f} GB free"


def _file_system(folder: Path) -> str | Problem:
    """Test renames, syncs and locks, which outputs depend on, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix=".fmct-doctor-", dir=folder) as temporary:
        place = Path(temporary)
        write_text(place / "file", "old")
        with (place / "file").open() as held:
            write_text(place / "file", "new")
            if held.read() != "old" or (place / "file").read_text() != "new":
                return fault(f"{folder}: a rename is not atomic", "use another file system")
        sync(place)
    locked = locks(folder)
    if isinstance(locked, Problem):
        return locked
    return f"{folder}: renames, syncs and locks work, {shutil.disk_usage(folder).free / 1e9:.0f} GB free"


def _commands() -> str | Problem:
    missing = [name for name in partitions.NEEDED if not shutil.which(name)]
    if missing:
        return fault(
            f"{', '.join(missing)} not on the PATH",
            "run this on a login node, or load Slurm's module",
        )
    return partitions.version()


def _controller(nodes: list[partitions.Nodes]) -> str | Problem:
    nodes += partitions.nodes()
    if not nodes:
        return fault("it lists no partition for you", "ask the cluster's administrators")
    return "answers, partitions " + ", ".join(sorted({kind.partition for kind in nodes}))


def _account(site: Site) -> str | Problem:
    """Check the account and each stage's QoS against the user's associations."""
    wanted = {stage: getattr(site, stage).qos for stage in STAGES if getattr(site, stage).qos}
    if not site.account and not wanted:
        return "your default account"
    try:
        allowed = partitions.associations(getpass.getuser())
    except (FmctError, KeyError) as error:  # KeyError: a user without a name
        return note(f"unknown: {error}", f"see the {partitions.TRIAL} test of each stage")
    accounts = {association.account for association in allowed}
    if not accounts:
        return note("accounting lists no account for you", f"see the {partitions.TRIAL} test of each stage")
    if site.account and site.account not in accounts:
        return fault(f"{site.account} is not one of yours", f"account: one of {', '.join(sorted(accounts))}")
    here = [a for a in allowed if site.account in (None, a.account)]
    qos = frozenset().union(*(association.qos for association in here))
    for stage, name in wanted.items():
        if name not in qos:
            return fault(f"{stage}: QoS {name} is not one of yours", f"one of {', '.join(sorted(qos))}")
    return f"{site.account or 'your default account'}, QoS {', '.join(sorted(qos))}"


def _array_size(site: Site) -> str | Problem:
    max_size = int(partitions.setting("MaxArraySize") or 0)
    if site.array_size > max_size:
        return fault(f"{site.array_size}, but Slurm's MaxArraySize is {max_size}", f"array_size: {max_size}")
    return f"{site.array_size} of at most {max_size}"


def _stage(stage: str, wanted: Resources, nodes: list[partitions.Nodes]) -> str | Problem:
    """Check by Slurm's list whether a partition has a node for a stage's job."""
    fitting = [k for k in nodes if (k.partition == wanted.partition if wanted.partition else k.default)]
    name = wanted.partition or "the default partition"
    if not fitting:
        names = ", ".join(sorted({kind.partition for kind in nodes}))
        return fault(f"no partition {name}", f"{stage}.partition: one of {names}")
    if not any(kind.up for kind in fitting):
        return fault(f"partition {name} is down", "wait, or use another")
    limit = max(kind.minutes for kind in fitting)
    if wanted.time_minutes > limit:
        shorter = f"{stage}.time_minutes: {limit:.0f}; unfinished jobs are queued again and resume"
        return fault(f"{wanted.time_minutes} minutes, but {name} allows {limit:.0f}", shorter)
    remedy = f"correct {stage} in the site file"
    # One task is one rank, and one rank has one GPU.
    cores = wanted.cpus_per_task * (max(1, wanted.gpus_per_node) if stage == "train" else 1)
    memory = (wanted.mem_gb or 0) * 1024
    requests: list[tuple[str, Callable[[partitions.Nodes], bool], Callable[[partitions.Nodes], str]]] = [
        (f"the features {wanted.constraint}", lambda n: _satisfied(wanted.constraint, n.features), _features),
        (f"{cores} cores", lambda n: n.cores >= cores, lambda n: str(n.cores)),
        (f"{wanted.gpus_per_node} GPUs", lambda n: n.gpus >= wanted.gpus_per_node, lambda n: str(n.gpus)),
        (f"{memory / 1024:g} GiB", lambda n: n.memory_mib >= memory, lambda n: f"{n.memory_mib / 1024:g}"),
    ]
    for what, has, own in requests:
        remaining = [kind for kind in fitting if has(kind)]
        if not remaining:
            have = " or ".join(sorted({own(kind) for kind in fitting}))
            return fault(f"no node of {name} has {what}: nodes that match otherwise have {have}", remedy)
        fitting = remaining
    return f"{name} has matching nodes"


def _features(kind: partitions.Nodes) -> str:
    return ",".join(sorted(kind.features)) or "none"


def _satisfied(constraint: str | None, features: frozenset[str]) -> bool:
    if constraint is None or not SIMPLE_CONSTRAINT.fullmatch(constraint):
        return True
    return any(set(each.split("&")) <= features for each in constraint.split("|"))


def _trial(stage: str, resources: Resources, site: Site) -> str | Problem:
    """Let Slurm test a stage's batch script, without submitting it."""
    ranks = max(1, resources.gpus_per_node) if stage == "train" else 1
    job = Job(f"fmct-{stage}", (("true",),), resources, tasks_per_node=ranks)
    if message := partitions.trial(script(job, Path.cwd() / "slurm", site)):
        return fault(f"{partitions.TRIAL} rejects it: {message}", f"correct {stage} in the site file")
    return f"{partitions.TRIAL} accepts it"
