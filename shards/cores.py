"""The number of cores that this process may use; on a shared machine, fewer than the machine has."""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
"""Mount point of systemd and container runtimes: version 2 directly, version 1 a folder per controller."""


def usable_cores(own: Path = Path("/proc/self/cgroup"), mounted: Path = CGROUPS) -> int:
    """The lesser of the cores in this process's affinity mask and the smallest CPU quota that applies to it.

    own: the cgroups of this process (cgroups(7)). A quota below one core counts as one core.
    """
    quotas = [quota for folder in _folders(own, mounted) if (quota := _quota(folder)) is not None]
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas])))


def _folders(own: Path, mounted: Path) -> list[Path]:
    """Folders of the cgroups that limit this process's CPU time: its own and all parents.

    In a container, the mount may start at the container's cgroup, unlike the path in /proc: the mount's top
    folder is always included.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text(errors="surrogateescape").splitlines()]
    except OSError:
        return []
    folders = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = mounted / controllers
        here = top / path.lstrip("/")
        folders += [here, *(folder for folder in here.parents if folder.is_relative_to(top))]
    return folders


def _quota(folder: Path) -> float | None:
    """CPU quota in cores (cpu.max of version 2, cpu.cfs_quota_us of version 1); None without a limit."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no limit: "max", or no such file
        return None
