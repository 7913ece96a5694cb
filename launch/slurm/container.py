"""Running a stage in a container: its command wrapped for Apptainer, Enroot or pyxis."""

from pathlib import Path

from launch.slurm.site import Container, Site
from shards.errors import FmctError

ENROOT_CONFIGURATION = Path(__file__).parents[1] / "enroot.sh"
"""Selects the environment variables that Enroot passes on; by default none. Queued jobs refer to its path."""


def wrapped(command: tuple[str, ...], site: Site, gpus: bool, folder: Path) -> tuple[str, ...]:
    """`command` as it is run on a node of `site`, in the working directory `folder`.

    With pyxis the command is unchanged: `srun_options` makes srun run it in the image.
    """
    container = site.container
    if container is None or container.runtime == "pyxis":
        return command
    binds = _binds(container, site)
    if container.runtime == "apptainer":
        options = [*(["--nv"] if gpus else []), "--pwd", str(folder)]
        options += [part for bind in binds for part in ("--bind", ":".join(bind))]
        return ("apptainer", "exec", *options, container.image, *command)
    # Fields of fstab(5), as in pyxis. Enroot has no option for the working directory.
    mounts = [f"{source}:{target}:none:x-create=auto,rbind,{mode}" for source, target, mode in binds]
    options = ["--conf", str(ENROOT_CONFIGURATION)]
    options += [part for name in site.environment for part in ("--env", name)]
    options += [part for mount in mounts for part in ("--mount", mount)]
    return ("enroot", "start", *options, container.image, "sh", "-c", _CHANGE_FOLDER, str(folder), *command)


def srun_options(site: Site, folder: Path) -> list[str]:
    """The srun options for pyxis; empty for the other runtimes."""
    container = site.container
    if container is None or container.runtime != "pyxis":
        return []
    mounts = ",".join(":".join(bind) for bind in _binds(container, site))
    options = [f"--container-image={container.image}", f"--container-workdir={folder}"]
    return [*options, *([f"--container-mounts={mounts}"] if mounts else [])]


def require_visible(site: Site, *folders: Path) -> None:
    """Raise FmctError if a container shows only its binds, and a folder is in none of them."""
    container = site.container
    if container is None or container.runtime == "apptainer":  # it binds home and working directory
        return
    targets = [Path(target) for _, target, _ in _binds(container, site)]
    for folder in folders:
        if not any(folder.absolute().is_relative_to(target) for target in targets):
            raise FmctError(
                f"container.binds: {folder.absolute()} is in none of them, so a job in the container would "
                "not see it"
            )


PROGRAMS = {"apptainer": "apptainer", "enroot": "enroot", "pyxis": "srun"}
"""The program that each runtime needs."""

_CHANGE_FOLDER = 'cd "$0" && exec "$@"'


def _binds(container: Container, site: Site) -> list[tuple[str, str, str]]:
    """(source, target, rw or ro) of each folder that is visible in the container."""
    given = [*container.binds, *(str(path) for path in (site.scratch, site.cache) if path)]
    binds = []
    for bind in dict.fromkeys(given):
        source, target, mode = (*bind.split(":"), "", "")[:3]
        binds.append((source, target or source, mode or "rw"))
    return binds
