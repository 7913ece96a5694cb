"""The scheduler that `fmct launch` uses, and the model of its site files."""

from pathlib import Path

from launch.scheduler import Scheduler
from launch.site import Site
from launch.slurm.scheduler import Slurm


def scheduler(site: Site | None = None) -> Scheduler:
    """The scheduler in use; `site` has what is needed to submit jobs, and may be omitted otherwise."""
    return Slurm(site)


def read_site(path: Path) -> Site:
    """The contents of a site file; FmctError for unknown keys and invalid values."""
    from launch import config  # status and logs need no YAML
    from launch.slurm import site

    return config.load(site.Site, path, [])
