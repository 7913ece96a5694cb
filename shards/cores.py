"""The number of cores that this process may use, which on a shared machine is fewer than the total."""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
"""Where systemd and container runtimes mount them: version 2 itself, version 1 with a folder a controller."""


def usable_cores(own: Path = Path("/proc/self/cgroup"), mounted: Path = CGROUPS) -> int:
    """Cores of this process's affinity mask, or of the smallest CPU quota over it, whichever is fewer.

    own: the cgroups of this process (cgroups(7)). A quota of part of a core is one core.
    """
    quotas = [quota for folder in _folders(own, mounted) if (quota := _quota(folder)) is not None]
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas])))


def _folders(own: Path, mounted: Path) -> list[Path]:
    """Of the cgroups that bound this process's CPU time: its own, and all above it.

    In a container the mount may begin at its own cgroup, whatever /proc says: the top is among them.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text(errors="surrogateescape").splitlines()]
    except OSError:
        return []
    found = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = mounted / controllers
        here = top / path.lstrip("/")
        found += [here, *(folder for folder in here.parents if folder.is_relative_to(top))]
    return found


def _quota(folder: Path) -> float | None:
    """Cores' worth of CPU time (cpu.max of version 2, cpu.cfs_quota_us of version 1); None: no bound."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # none is set: "max", or there is no such file
        return None
