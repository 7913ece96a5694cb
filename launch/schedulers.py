"""The scheduler that `fmct launch` uses."""

from typing import TYPE_CHECKING

from launch.scheduler import Scheduler
from launch.slurm.scheduler import Slurm

if TYPE_CHECKING:
    from launch.slurm.site import Site


def scheduler(site: "Site | None" = None) -> Scheduler:
    """Slurm; `site` has what is needed to submit jobs, and may be omitted otherwise."""
    return Slurm(site)
