"""The stages as jobs: which `fmct` command lines they run, on which of the site's resources."""

import sys
from pathlib import Path

from fmct_hpc.config import ProbeConfig, TrainConfig
from launch.config import load
from launch.site import Site
from launch.slurm import Job
from preprocess.config import PreprocessConfig
from preprocess.plan import plan
from shards.errors import FmctError


def preprocess_jobs(
    catalog: Path, out: Path, config: Path | None, overrides: list[str], site: Site
) -> list[Job]:
    """An array that shares the tasks out, and a job that collects. Plans here, in this process."""
    tasks = plan(catalog, out, load(PreprocessConfig, config, overrides))
    configuration = _configuration(config, overrides)
    return [
        preprocess_array(catalog, out, configuration, min(tasks, site.array_size), site),
        collect_job(catalog, out, configuration, site),
    ]


def preprocess_array(catalog: Path, out: Path, configuration: list[str], shares: int, site: Site) -> Job:
    """An array of `shares` tasks, each of which does as many of the plan's tasks, one after another."""
    resources = site.preprocess
    command = fmct(site, "preprocess", catalog, "--out", out, *configuration)
    workers = f"workers={resources.cpus_per_task}"
    commands = tuple((*command, "--share", f"{i}/{shares}", workers) for i in range(shares))
    return Job("fmct-preprocess", commands, resources)


def collect_job(catalog: Path, out: Path, configuration: list[str], site: Site) -> Job:
    """Joins what the array made. It starts whatever came of that, since it says best what is missing."""
    command = fmct(site, "preprocess", catalog, "--out", out, *configuration, "--collect")
    return Job("fmct-collect", (command,), site.light, after_end=("fmct-preprocess",))


def train_jobs(
    run: Path, config: Path | None, overrides: list[str], nodes: int, ranks_per_node: int, site: Site
) -> list[Job]:
    """One job of nodes × ranks_per_node ranks; a wrong configuration shows here, not in the queue."""
    overrides = [*_cache(site), *overrides]
    load(TrainConfig, config, overrides).accumulation(nodes * ranks_per_node)
    command = fmct(site, "train", "--run", run, *_configuration(config, overrides))
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
        fmct(site, "probe", run, "--out", one, *configuration) for run, one in zip(runs, outs, strict=True)
    )
    return [Job("fmct-probe", commands, site.probe)]


def fmct(site: Site, *arguments: str | Path) -> tuple[str, ...]:
    """The `fmct` command with `arguments`: this installation's, or the one in the site's container."""
    program = ("fmct",) if site.container else (sys.executable, "-m", "launch.cli")
    return (*program, *(str(argument) for argument in arguments))


def _configuration(config: Path | None, overrides: list[str]) -> list[str]:
    return [*(["--config", str(config)] if config else []), *overrides]


def _cache(site: Site) -> list[str]:
    """The site's cache as overrides, before the user's own."""
    cache = [f"data.cache={site.cache}"] if site.cache else []
    return [*cache, *([f"data.cache_gb={site.cache_gb}"] if site.cache_gb else [])]
