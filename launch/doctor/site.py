"""Checks of a site file against the Slurm here, its container and the file systems."""

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
from launch.doctor import slurm
from launch.doctor.finding import Finding, Judgement, fault, looked, note
from launch.doctor.shared import locks
from launch.slurm.site import Resources, Site
from launch.slurm.submit import FIND_MODULE, Job, script
from shards.atomic import sync, write_text
from shards.errors import FmctError

STAGES = [name for name, field in Site.model_fields.items() if field.annotation is Resources]
SIMPLE_CONSTRAINT = re.compile(r"[\w.-]+([&|][\w.-]+)*")
"""Names of features joined by & or |; Slurm takes more, which only its own trial can judge."""


def look_at_site(path: Path) -> Iterator[Finding]:
    """What Slurm, the container runtime and the file systems make of a site file."""
    loaded: list[Site] = []
    yield looked("site file", partial(_load, path, loaded))
    if not loaded:
        return
    site = loaded[0]
    yield looked("PyTorch", lambda: _torch(site))
    yield looked("container", lambda: _container(site))
    yield looked("modules", lambda: _modules(site))
    for name, folder in (("scratch", site.scratch), ("cache", site.cache)):
        if folder:
            yield looked(name, partial(_node_folder, folder))
    yield looked("file system", lambda: _file_system(Path.cwd()))
    commands = looked("Slurm's commands", _commands)
    yield commands
    if commands.level != "fault":
        yield from _look_at_slurm(site)


def _look_at_slurm(site: Site) -> Iterator[Finding]:
    found: list[slurm.Nodes] = []
    yield looked("controller", partial(_controller, found))
    if not found:
        return
    yield looked("account", lambda: _account(site))
    yield looked("array_size", lambda: _array_size(site))
    for stage in STAGES:
        resources: Resources = getattr(site, stage)
        fits = looked(stage, partial(_stage, stage, resources, found))
        # The trial knows limits that no listing shows; what is named already it would name again, less well.
        if fits.level == "ok":
            trial = looked(stage, partial(_trial, stage, resources, site))
            fits = trial if trial.level == "fault" else fits._replace(said=f"{fits.said}; {trial.said}")
        yield fits


def _load(path: Path, loaded: list[Site]) -> str:
    loaded.append(load(Site, path, []))
    return "every key is known"


def _torch(site: Site) -> str | Judgement:
    if site.container or not (site.train.gpus_per_node or site.probe.gpus_per_node):
        return "nothing is asked of the one here"
    import torch

    if torch.version.cuda is None:
        return fault(
            f"train or probe ask for GPUs, but PyTorch {torch.__version__} here is built for CPUs",
            "unset PIP_EXTRA_INDEX_URL and PIP_FIND_LINKS, then bash launch/environment.sh .venv --gpu",
        )
    return f"built for CUDA {torch.version.cuda}"


_RUNTIMES = {"apptainer": "apptainer", "enroot": "enroot", "pyxis": "srun"}


def _container(site: Site) -> str | Judgement:
    container = site.container
    if container is None:
        return "none: the stages run in this environment"
    program = _RUNTIMES[container.runtime]
    if not shutil.which(program):
        return fault(f"{program} is not on the PATH", "name its module under modules, or another runtime")
    if container.runtime == "pyxis" and "--container-image" not in slurm.ask("srun", "--help"):
        return fault("srun has no --container-image", "pyxis is not installed: use apptainer or enroot")
    image = Path(container.image)
    if container.image.startswith(("/", ".")) and not os.access(image, os.R_OK):
        return fault(f"{image} is not there, or not readable", "mend container.image")
    missing = [bind for bind in container.binds if not Path(bind.split(":")[0]).exists()]
    if missing:
        return note(f"not here: {', '.join(missing)}", "nothing, if the nodes have them")
    return f"{container.runtime}, {container.image}"


def _modules(site: Site) -> str | Judgement:
    """Load them as the batch script does."""
    failed = []
    for name in site.modules:
        line = f'{FIND_MODULE}; module load "$0"'
        done = subprocess.run(["bash", "-c", line, name], capture_output=True, timeout=slurm.SECONDS)
        if done.returncode:
            failed.append(name)
    if failed:
        return fault(f"module load fails for {', '.join(failed)}", "module avail lists what is here")
    return ", ".join(site.modules) or "none"


def _node_folder(folder: Path) -> str | Judgement:
    """A folder that each node has for itself; a login node need not have it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, 2**20)
    except OSError as error:
        where = "a job" if "SLURM_JOB_ID" in os.environ else "this node"
        said = f"{folder}: {os.strerror(error.errno or 0).lower()} on {where}"
        if where == "a job" or folder.exists():
            return fault(said, "name a folder that users may write to")
        return note(said, "look on a compute node: srun fmct doctor --site SITE")
    return f"{folder}: writable, {shutil.disk_usage(folder).free / 1e9:.0f} GB free"


def _file_system(folder: Path) -> str | Judgement:
    """What atomic outputs and locks rest on, tried in a temporary folder here."""
    with tempfile.TemporaryDirectory(prefix=".fmct-doctor-", dir=folder) as temporary:
        place = Path(temporary)
        write_text(place / "file", "old")
        with (place / "file").open() as held:
            write_text(place / "file", "new")
            if held.read() != "old" or (place / "file").read_text() != "new":
                return fault(f"{folder}: a rename does not replace a file at once", "use another file system")
        sync(place)
    locked = locks(folder)
    if isinstance(locked, Judgement):
        return locked
    return f"{folder}: renames, syncs and locks hold, {shutil.disk_usage(folder).free / 1e9:.0f} GB free"


def _commands() -> str | Judgement:
    missing = [name for name in slurm.NEEDED if not shutil.which(name)]
    if missing:
        return fault(
            f"{', '.join(missing)} not on the PATH",
            "run this on a login node, or load Slurm's module",
        )
    return slurm.ask("sbatch", "--version").strip()


def _controller(found: list[slurm.Nodes]) -> str | Judgement:
    found += slurm.nodes()
    if not found:
        return fault("it lists no partition for you", "ask who runs the cluster")
    return "answers, partitions " + ", ".join(sorted({kind.partition for kind in found}))


def _account(site: Site) -> str | Judgement:
    """Account and each stage's QoS against the user's associations."""
    wanted = {stage: getattr(site, stage).qos for stage in STAGES if getattr(site, stage).qos}
    if not site.account and not wanted:
        return "your default one"
    try:
        allowed = slurm.associations(getpass.getuser())
    except (FmctError, KeyError) as error:  # the latter of a user without a name
        return note(f"unknown: {error}", "without slurmdbd only the trial of each stage can tell")
    accounts = {association.account for association in allowed}
    if not accounts:
        return note("accounting lists none for you", "the trial of each stage tells whether one is needed")
    if site.account and site.account not in accounts:
        return fault(f"{site.account} is none of yours", f"account: one of {', '.join(sorted(accounts))}")
    here = [a for a in allowed if site.account in (None, a.account)]
    qos = frozenset().union(*(association.qos for association in here))
    for stage, name in wanted.items():
        if name not in qos:
            return fault(f"{stage}: QoS {name} is none of yours", f"one of {', '.join(sorted(qos))}")
    return f"{site.account or 'your default one'}, QoS {', '.join(sorted(qos))}"


def _array_size(site: Site) -> str | Judgement:
    most = int(slurm.setting("MaxArraySize") or 0)
    if site.array_size > most:
        return fault(f"{site.array_size}, but Slurm's MaxArraySize is {most}", f"array_size: {most}")
    return f"{site.array_size} of at most {most}"


def _stage(stage: str, wanted: Resources, found: list[slurm.Nodes]) -> str | Judgement:
    """Whether a partition has a node that a stage's job fits, asked of `sinfo`."""
    fitting = [k for k in found if (k.partition == wanted.partition if wanted.partition else k.default)]
    name = wanted.partition or "the default partition"
    if not fitting:
        names = ", ".join(sorted({kind.partition for kind in found}))
        return fault(f"no partition {name}", f"{stage}.partition: one of {names}")
    if not any(kind.up for kind in fitting):
        return fault(f"partition {name} is down", "wait, or name another")
    limit = max(kind.minutes for kind in fitting)
    if wanted.time_minutes > limit:
        shorter = f"{stage}.time_minutes: {limit:.0f}; what is not done by then goes on"
        return fault(f"{wanted.time_minutes} minutes, but {name} allows {limit:.0f}", shorter)
    remedy = f"mend {stage} in the site file"
    # One task is one rank, and one rank has one GPU.
    cores = wanted.cpus_per_task * (max(1, wanted.gpus_per_node) if stage == "train" else 1)
    memory = (wanted.mem_gb or 0) * 1024
    asked: list[tuple[str, Callable[[slurm.Nodes], bool], Callable[[slurm.Nodes], str]]] = [
        (f"the features {wanted.constraint}", lambda n: _satisfied(wanted.constraint, n.features), _features),
        (f"{cores} cores", lambda n: n.cores >= cores, lambda n: str(n.cores)),
        (f"{wanted.gpus_per_node} GPUs", lambda n: n.gpus >= wanted.gpus_per_node, lambda n: str(n.gpus)),
        (f"{memory / 1024:g} GiB", lambda n: n.memory_mib >= memory, lambda n: f"{n.memory_mib / 1024:g}"),
    ]
    for what, has, own in asked:
        remaining = [kind for kind in fitting if has(kind)]
        if not remaining:
            have = " or ".join(sorted({own(kind) for kind in fitting}))
            return fault(f"no node of {name} has {what}: those that could be have {have}", remedy)
        fitting = remaining
    return f"{name} has nodes for it"


def _features(kind: slurm.Nodes) -> str:
    return ",".join(sorted(kind.features)) or "none"


def _satisfied(constraint: str | None, features: frozenset[str]) -> bool:
    if constraint is None or not SIMPLE_CONSTRAINT.fullmatch(constraint):
        return True
    return any(set(each.split("&")) <= features for each in constraint.split("|"))


def _trial(stage: str, resources: Resources, site: Site) -> str | Judgement:
    """Slurm's own verdict on a stage's very batch script, which is not submitted."""
    ranks = max(1, resources.gpus_per_node) if stage == "train" else 1
    job = Job(f"fmct-{stage}", (("true",),), resources, tasks_per_node=ranks)
    try:
        slurm.ask("sbatch", "--test-only", given=script(job, Path.cwd() / "slurm", site))
    except FmctError as error:
        said = (
            str(error)
            .removeprefix("sbatch says: ")
            .replace("sbatch: error: ", "")
            .replace("allocation failure: ", "")
        )
        return fault(f"Slurm would refuse it: {said}", f"mend {stage} in the site file")
    return "sbatch would take it"
