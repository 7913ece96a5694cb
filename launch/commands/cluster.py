"""`fmct launch`: the stages on Slurm, with the same arguments as locally."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from launch.commands.arguments import (
    AllowCode,
    ClassifierFolder,
    Device,
    KeyFile,
    Paths,
    Predictions,
    is_override,
    recorded_configuration,
)
from launch.commands.array import Tasks, Words, before_and_last, output, parsed
from launch.commands.watch import watch_app
from launch.screen import echo

if TYPE_CHECKING:
    from launch.scheduler import Job
    from launch.site import Site

launch_app = typer.Typer(
    help="Run stages on Slurm, with the same arguments as locally, and monitor them.", no_args_is_help=True
)

launch_app.add_typer(watch_app)

SiteFile = Annotated[
    Path, typer.Option("--site", help="YAML site file; see launch/recipes/site-example.yaml.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML recipe.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values that override those of the recipe."),
]
Stage = Literal[
    "scan",
    "labels",
    "plan",
    "preprocess",
    "collect",
    "split",
    "train",
    "probe",
    "report",
    "sweep-plan",
    "features",
    "features-joined",
    "sweep",
    "swept",
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only print the batch scripts and the command of each task.")
]


@launch_app.command()
def preprocess(
    catalog: Annotated[Path, typer.Argument(help="Catalog written by `fmct scan`.")],
    out: Annotated[Path, typer.Option(help="Folder for shards, manifest, quarantine and QC.")],
    site: SiteFile,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overrides: Overrides = None,
) -> None:
    """Submit preprocessing: plan locally, then an array for the tasks, and a job that collects."""
    from launch.pipeline.stages import preprocess_jobs
    from launch.schedulers import read_site

    cluster = read_site(site)
    _launch(preprocess_jobs(catalog, out, config, overrides or [], cluster), out, cluster, dry_run)


@launch_app.command()
def train(
    run: Annotated[
        Path, typer.Option(help="Run folder; an existing run is resumed from its newest checkpoint.")
    ],
    site: SiteFile,
    nodes: Annotated[int, typer.Option(min=1, help="Number of nodes.")] = 1,
    ranks_per_node: Annotated[
        int, typer.Option(min=1, help="Processes per node, usually its number of GPUs.")
    ] = 1,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overrides: Overrides = None,
) -> None:
    """Submit training: a job that is queued again after preemption or its time limit until it is done."""
    from fmct_hpc.config import TrainConfig
    from fmct_hpc.train.deepspeed_keys import require_deepspeed_keys
    from launch.config import load
    from launch.pipeline.stages import configuration, train_job
    from launch.schedulers import read_site

    cluster = read_site(site)
    config = config or recorded_configuration(run)
    # An invalid configuration is reported here, not by the queued job.
    settings = load(TrainConfig, config, overrides or [])
    settings.accumulation(nodes * ranks_per_node)
    require_deepspeed_keys(settings)
    job = train_job(run, configuration(config, overrides or []), nodes, ranks_per_node, cluster)
    _launch([job], run, cluster, dry_run)


@launch_app.command()
def probe(
    runs_and_overrides: Annotated[
        list[str],
        typer.Argument(metavar="RUN... [KEY=VALUE]...", help="Run folders, and overrides of the recipe."),
    ],
    out: Annotated[Path, typer.Option(help="Output folder; of several runs, with a subfolder for each.")],
    site: SiteFile,
    config: ConfigFile = None,
    dry_run: DryRun = False,
) -> None:
    """Submit probes: an array with one task per run."""
    from fmct_hpc.probe.config import ProbeConfig
    from launch.config import load
    from launch.pipeline.stages import configuration, probe_job
    from launch.schedulers import read_site

    cluster = read_site(site)
    runs = [Path(given) for given in runs_and_overrides if not is_override(given)]
    overrides = [given for given in runs_and_overrides if is_override(given)]
    if not runs:
        raise typer.BadParameter("give at least one run folder")
    load(ProbeConfig, config, overrides)
    _launch([probe_job(runs, out, configuration(config, overrides), cluster)], out, cluster, dry_run)


@launch_app.command()
def pipeline(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe; see launch/recipes/pipeline-example.yaml.")],
    site: SiteFile,
    again: Annotated[
        Stage | None,
        typer.Option(help="Repeat this stage and those that follow, for example when the export has grown."),
    ] = None,
    dry_run: DryRun = False,
    allow_code: AllowCode = False,
    overrides: Overrides = None,
) -> None:
    """Submit the whole pipeline, from an export to a report, as jobs with dependencies.

    Safe to repeat: stages that are done, queued or running are not submitted again.
    """
    from launch.config import load
    from launch.own_code import require_own
    from launch.pipeline.chain import Chain
    from launch.pipeline.steps import Pipeline, steps
    from launch.schedulers import read_site, scheduler

    cluster, whole = read_site(site), load(Pipeline, recipe, overrides or [])
    if whole.sweep and not any(given.startswith(("sweep=", "sweep.encoders=")) for given in overrides or []):
        require_own(recipe, whole.sweep.encoders, allow_code)
    chain = Chain(whole.out, steps(whole, cluster), cluster, scheduler(cluster))
    for line in chain.describe(again) if dry_run else chain.submit(again):
        echo(line)


@launch_app.command()
def sweep(
    config: Annotated[Path, typer.Argument(help="YAML configuration of the sweep.")],
    out: Annotated[Path, typer.Option(help="Output folder for results, predictions and comparisons.")],
    site: SiteFile,
    dry_run: DryRun = False,
    allow_code: AllowCode = False,
    overrides: Overrides = None,
) -> None:
    """Submit a sweep: plan locally, then arrays for features and for the grid, and a job that collects."""
    from launch.pipeline.stages import sweep_jobs
    from launch.schedulers import read_site

    cluster = read_site(site)
    _launch(sweep_jobs(config, out, overrides or [], cluster, allow_code), out, cluster, dry_run)


@launch_app.command()
def predict(
    paths: Paths,
    classifier: ClassifierFolder,
    out: Predictions,
    site: SiteFile,
    device: Device = "cpu",
    key_file: KeyFile = None,
    dry_run: DryRun = False,
) -> None:
    """Submit predictions: an array for the scans, and a job that joins the results."""
    from launch.pipeline.stages import predict_jobs
    from launch.schedulers import read_site

    cluster = read_site(site)
    _launch(predict_jobs(paths, classifier, out, device, key_file, cluster), out, cluster, dry_run)


@launch_app.command()
def array(words: Words, site: SiteFile, tasks: Tasks = 8, dry_run: DryRun = False) -> None:
    """Submit a command that divides its work: its features, an array, and a job that joins the results.

    For example `fmct launch array --site site.yaml --tasks 16 -- segment CONFIG --out OUT`. Safe to repeat:
    finished parts are kept.
    """
    from launch.pipeline.stages import array_jobs
    from launch.schedulers import read_site

    values = parsed(words)
    cluster = read_site(site)
    jobs = array_jobs(words, tasks, *before_and_last(words[0], values), cluster)
    _launch(jobs, output(values), cluster, dry_run)


def _launch(jobs: "list[Job]", out: Path, cluster: "Site", dry_run: bool) -> None:
    from launch.schedulers import scheduler
    from shards.atomic import write_text

    folder, chosen = out / "slurm", scheduler(cluster)
    if dry_run:
        echo("\n".join(chosen.describe(job, folder) for job in jobs))
        return
    write_text(folder / "site.json", cluster.model_dump_json(indent=1))
    for job, number in zip(jobs, chosen.submit(jobs, folder), strict=True):
        echo(f"{job.name}: job {number}, logs {folder}/{number}*.out")
