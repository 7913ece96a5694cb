"""The stages as jobs: the `fmct` command lines that they run, and the site's resources for them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from launch.config import load
from launch.scheduler import Job
from launch.site import Site
from preprocess.config import PreprocessConfig
from preprocess.tasks.plan import plan
from shards.errors import FmctError
from shards.label_kinds import Kinds, LabelKinds


def scan_job(export: Path, catalog: Path, site: Site) -> Job:
    """The scan, with one worker per core that the site file gives it."""
    workers = str(site.scan.cpus_per_task)
    command = fmct(site, "scan", export, "--catalog", catalog, "--workers", workers)
    return Job("fmct-scan", (command,), site.scan)


def labels_job(csv: Path, key_file: Path, out: Path, kinds: Kinds, site: Site) -> Job:
    """Replaces the identifiers in the label table by the keys of the volumes."""
    given = LabelKinds(kinds=kinds).model_dump(mode="json")["kinds"]
    others = ["--kinds", json.dumps(given)] if given else []
    command = fmct(site, "labels", csv, "--key-file", key_file, "--out", out, *others)
    return Job("fmct-labels", (command,), site.light)


def preprocess_jobs(
    catalog: Path, out: Path, config: Path | None, overrides: list[str], site: Site
) -> list[Job]:
    """An array that processes the tasks, and a job that collects. Plans in this process."""
    tasks = plan(catalog, out, load(PreprocessConfig, config, overrides))
    arguments = configuration(config, overrides)
    array = preprocess_array(catalog, out, arguments, min(tasks, site.array_size), site)
    collect = collect_job(catalog, out, arguments, site)
    return [array, replace(collect, after_end=(array.name,))]


def plan_job(catalog: Path, out: Path, configuration: list[str], site: Site) -> Job:
    """Divides the work into tasks, if the catalog does not exist yet when the jobs are submitted."""
    command = fmct(site, "preprocess", catalog, "--out", out, *configuration, "--plan")
    return Job("fmct-plan", (command,), site.light)


def preprocess_array(catalog: Path, out: Path, configuration: list[str], shares: int, site: Site) -> Job:
    """An array of `shares` tasks, among which the plan's tasks are divided evenly."""
    resources = site.preprocess
    command = fmct(site, "preprocess", catalog, "--out", out, *configuration)
    workers = f"workers={resources.cpus_per_task}"
    commands = tuple((*command, "--share", f"{i}/{shares}", workers) for i in range(shares))
    return Job("fmct-preprocess", commands, resources)


def collect_job(catalog: Path, out: Path, configuration: list[str], site: Site) -> Job:
    """Joins the array's outputs; it runs even if the array failed, because it reports what is missing."""
    command = fmct(site, "preprocess", catalog, "--out", out, *configuration, "--collect")
    return Job("fmct-collect", (command,), site.light)


def split_job(volumes: Path, out: Path, arguments: tuple[str, ...], site: Site) -> Job:
    """Divides the volumes by patient, with one worker per core that the site file gives preprocessing."""
    workers = str(site.preprocess.cpus_per_task)
    command = fmct(site, "shards", "split", volumes, "--out", out, *arguments, "--workers", workers)
    return Job("fmct-split", (command,), site.preprocess)


def train_job(run: Path, configuration: list[str], nodes: int, ranks_per_node: int, site: Site) -> Job:
    """One job of nodes × ranks_per_node ranks; the user's cache overrides the site's."""
    cache = [f"data.cache={site.cache}"] if site.cache else []
    cache += [f"data.cache_gb={site.cache_gb}"] if site.cache_gb else []
    command = fmct(site, "train", "--run", run, *cache, *configuration)
    return Job("fmct-train", (command,), site.train, nodes, ranks_per_node, ("--run", str(run)))


def probe_job(runs: list[Path], out: Path, configuration: list[str], site: Site) -> Job:
    """An array over run folders; each run's results go to `out`/<the run folder's name>, one run's to `out`.

    Raises FmctError when two run folders have the same name.
    """
    if len({run.resolve().name for run in runs}) < len(runs):
        raise FmctError(
            "two of the run folders have the same name, so their results would collide; rename one"
        )
    outs = [out / run.resolve().name for run in runs] if len(runs) > 1 else [out]
    commands = tuple(
        fmct(site, "probe", run, "--out", one, *configuration) for run, one in zip(runs, outs, strict=True)
    )
    return Job("fmct-probe", commands, site.probe)


def sweep_jobs(
    config: Path, out: Path, overrides: list[str], site: Site, allow_code: bool = False
) -> list[Job]:
    """An array that extracts features, a job that joins them, an array over the grid, a job that collects.

    Plans in this process, which needs the dataset and the labels, but no features. allow_code: whether the
    user allows functions that the file names (launch.own_code).
    """
    from fmct_hpc.probe.sweep.run import Sweep
    from launch.own_code import load_sweep

    sweep = Sweep(load_sweep(config, overrides, allow_code), out)
    shares = min(len(sweep.plan().tasks), site.array_size)
    return sweep_chain(config, out, overrides, sweep.extractions, shares, site, allow_code)


def sweep_chain(
    config: Path,
    out: Path,
    overrides: list[str],
    extractions: int,
    shares: int,
    site: Site,
    allow_code: bool = False,
) -> list[Job]:
    """A sweep's jobs, for a plan that exists when they start; extractions: size of the features array."""
    command = fmct(site, "sweep", config, "--out", out, *overrides, *_code(allow_code))

    def job(name: str, *arguments: tuple[str, ...], success: tuple[str, ...] = ()) -> Job:
        return Job(name, tuple((*command, *own) for own in arguments), site.probe, after_success=success)

    jobs = []
    if extractions:
        jobs += [
            job("fmct-features", *(("--extract", str(number)) for number in range(extractions))),
            job("fmct-features-joined", ("--extract", "-1"), success=("fmct-features",)),
        ]
    ready = ("fmct-features-joined",) if extractions else ()
    grid = job("fmct-sweep", *(("--share", f"{i}/{shares}") for i in range(shares)), success=ready)
    collect = (*command, "--collect")
    return [*jobs, grid, Job("fmct-swept", (collect,), site.light, after_end=("fmct-sweep",))]


def sweep_plan_job(config: Path, out: Path, site: Site, allow_code: bool = False) -> Job:
    """Divides the grid into tasks, if data and labels do not exist yet when the jobs are submitted."""
    command = fmct(site, "sweep", config, "--out", out, "--plan", *_code(allow_code))
    return Job("fmct-sweep-plan", (command,), site.light)


def _code(allowed: bool) -> tuple[str, ...]:
    return ("--allow-code",) if allowed else ()


def predict_jobs(
    paths: list[Path], classifier: Path, out: Path, device: str, key_file: Path | None, site: Site
) -> list[Job]:
    """An array that processes the parts, and a job that joins the results, even if the array failed."""
    from fmct_hpc.classifier.table import Predictions

    shares = min(Predictions(paths, classifier, out).parts, site.array_size)
    command = fmct(site, "predict", *paths, "--classifier", classifier, "--out", out, "--device", device)
    command += ("--key-file", str(key_file)) if key_file else ()
    commands = tuple((*command, "--share", f"{i}/{shares}") for i in range(shares))
    array = Job("fmct-predict", commands, site.probe)
    return [array, Job("fmct-predicted", ((*command, "--collect"),), site.light, after_end=(array.name,))]


def array_jobs(
    words: list[str], tasks: int, before: Mapping[str, tuple[str, ...]], last: tuple[str, ...], site: Site
) -> list[Job]:
    """The jobs `before`, an array of --share, and a job that joins, of a command of `words`.

    before: the options of the jobs before the array, by name; last: those of the job that joins. Each job
    depends on the success of the previous one.
    """
    command = fmct(site, *words)
    shares = min(tasks, site.array_size)
    array = tuple((*command, "--share", f"{i}/{shares}") for i in range(shares))
    jobs = [
        *(
            Job(name, ((*command, *own),), site.light if name == "planned" else site.probe)
            for name, own in before.items()
        ),
        Job("array", array, site.probe),
        Job("joined", ((*command, *last),), site.probe),
    ]
    names = [f"fmct-{words[0]}-{job.name}" for job in jobs]
    needed = [(), *((name,) for name in names)]
    return [
        replace(job, name=name, after_success=success)
        for job, name, success in zip(jobs, names, needed, strict=False)
    ]


def report_job(out: Path, data: Path, run: Path, probe: Path, labels: Path, site: Site) -> Job:
    """Writes the report of the whole run, with a map of the features that the probe extracted."""
    command = fmct(site, "report", out, "--data", data, "--run", run, "--probe", probe, "--labels", labels)
    return Job("fmct-report", (command,), site.light)


def fmct(site: Site, *arguments: str | Path) -> tuple[str, ...]:
    """The site's `fmct` command with `arguments`."""
    return (*site.program, *(str(argument) for argument in arguments))


def configuration(config: Path | None, overrides: list[str]) -> list[str]:
    """A recipe and its overrides, as arguments."""
    return [*(["--config", str(config)] if config else []), *overrides]
