"""`fmct launch`: the stages on Slurm, with the same arguments as here."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from launch.commands.arguments import (
    AllowCode,
    Device,
    Kept,
    KeyFile,
    Paths,
    Predictions,
    is_override,
    recorded_configuration,
)
from launch.commands.watch import watch_app
from launch.screen import echo

if TYPE_CHECKING:
    from launch.slurm.site import Site
    from launch.slurm.submit import Job

launch_app = typer.Typer(
    help="Give stages to Slurm, with the arguments they have locally.", no_args_is_help=True
)

launch_app.add_typer(watch_app)

SiteFile = Annotated[
    Path, typer.Option("--site", help="YAML of your cluster; copy launch/recipes/site-example.yaml.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML recipe.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values that override the recipe's."),
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
    bool, typer.Option("--dry-run", help="Only print the batch scripts, and what each task would run.")
]


@launch_app.command()
def preprocess(
    catalog: Annotated[Path, typer.Argument(help="The catalog that `fmct scan` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for shards, manifest, quarantine and QC.")],
    site: SiteFile,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overrides: Overrides = None,
) -> None:
    """Plan here, then an array that shares the tasks out, and a job that collects."""
    from launch.config import load
    from launch.slurm.site import Site
    from launch.slurm.stages import preprocess_jobs

    cluster = load(Site, site, [])
    _launch(preprocess_jobs(catalog, out, config, overrides or [], cluster), out, cluster, dry_run)


@launch_app.command()
def train(
    run: Annotated[
        Path, typer.Option(help="Run folder; an existing run goes on from its newest checkpoint.")
    ],
    site: SiteFile,
    nodes: Annotated[int, typer.Option(min=1)] = 1,
    ranks_per_node: Annotated[int, typer.Option(min=1, help="Usually the node's GPUs.")] = 1,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overrides: Overrides = None,
) -> None:
    """One job that queues itself again, after preemption or its time limit, until training is done."""
    from fmct_hpc.config import TrainConfig
    from fmct_hpc.train.understood import require_understood
    from launch.config import load
    from launch.slurm.site import Site
    from launch.slurm.stages import configuration, train_job

    cluster = load(Site, site, [])
    config = config or recorded_configuration(run)
    # A wrong configuration shows here, not in the queue.
    settings = load(TrainConfig, config, overrides or [])
    settings.accumulation(nodes * ranks_per_node)
    require_understood(settings)
    job = train_job(run, configuration(config, overrides or []), nodes, ranks_per_node, cluster)
    _launch([job], run, cluster, dry_run)


@launch_app.command()
def probe(
    runs_and_overrides: Annotated[
        list[str],
        typer.Argument(metavar="RUN... [KEY=VALUE]...", help="Run folders, and values for the recipe."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for results; of several runs, one folder each.")],
    site: SiteFile,
    config: ConfigFile = None,
    dry_run: DryRun = False,
) -> None:
    """An array with a task for each run."""
    from fmct_hpc.probe.config import ProbeConfig
    from launch.config import load
    from launch.slurm.site import Site
    from launch.slurm.stages import configuration, probe_job

    cluster = load(Site, site, [])
    runs = [Path(given) for given in runs_and_overrides if not is_override(given)]
    overrides = [given for given in runs_and_overrides if is_override(given)]
    if not runs:
        raise typer.BadParameter("name at least one run folder")
    load(ProbeConfig, config, overrides)
    _launch([probe_job(runs, out, configuration(config, overrides), cluster)], out, cluster, dry_run)


@launch_app.command()
def pipeline(
    recipe: Annotated[Path, typer.Argument(help="YAML; copy launch/recipes/pipeline-example.yaml.")],
    site: SiteFile,
    again: Annotated[
        Stage | None,
        typer.Option(help="Do this stage again, and what follows it: the export has grown, say."),
    ] = None,
    dry_run: DryRun = False,
    allow_code: AllowCode = False,
    overrides: Overrides = None,
) -> None:
    """From an export to a report: every stage as a job that waits for those that it needs.

    Safe to repeat: what is done is not done again, what is queued or running is not submitted again.
    """
    from launch.config import load
    from launch.own_code import require_own
    from launch.slurm.chain import Chain
    from launch.slurm.pipeline import Pipeline, steps
    from launch.slurm.site import Site

    cluster, whole = load(Site, site, []), load(Pipeline, recipe, overrides or [])
    if whole.sweep and not any(given.startswith(("sweep=", "sweep.encoders=")) for given in overrides or []):
        require_own(recipe, whole.sweep.encoders, allow_code)
    chain = Chain(whole.out, steps(whole, cluster), cluster)
    for line in chain.describe(again) if dry_run else chain.submit(again):
        echo(line)


@launch_app.command()
def sweep(
    config: Annotated[Path, typer.Argument(help="YAML of the grid.")],
    out: Annotated[Path, typer.Option(help="Folder for results, predictions and comparisons.")],
    site: SiteFile,
    dry_run: DryRun = False,
    allow_code: AllowCode = False,
    overrides: Overrides = None,
) -> None:
    """Plan here, then arrays for features and for the grid, and a job that collects."""
    from launch.config import load
    from launch.slurm.site import Site
    from launch.slurm.stages import sweep_jobs

    cluster = load(Site, site, [])
    _launch(sweep_jobs(config, out, overrides or [], cluster, allow_code), out, cluster, dry_run)


@launch_app.command()
def predict(
    paths: Paths,
    classifier: Kept,
    out: Predictions,
    site: SiteFile,
    device: Device = "cpu",
    key_file: KeyFile = None,
    dry_run: DryRun = False,
) -> None:
    """An array that shares the scans out, and a job that joins what is done."""
    from launch.config import load
    from launch.slurm.site import Site
    from launch.slurm.stages import predict_jobs

    cluster = load(Site, site, [])
    _launch(predict_jobs(paths, classifier, out, device, key_file, cluster), out, cluster, dry_run)


def _launch(jobs: "list[Job]", out: Path, cluster: "Site", dry_run: bool) -> None:
    from launch.slurm.submit import describe, submit
    from shards.atomic import write_text

    folder = out / "slurm"
    if dry_run:
        echo("\n".join(describe(job, folder, cluster) for job in jobs))
        return
    write_text(folder / "site.json", cluster.model_dump_json(indent=1))
    for job, number in zip(jobs, submit(jobs, folder, cluster), strict=True):
        echo(f"{job.name}: job {number}, logs {folder}/{number}*.out")
