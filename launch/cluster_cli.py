"""`fmct launch`: the stages on Slurm, with the same arguments as here."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.config import load
from launch.site import Site
from launch.watch_cli import watch_app
from shards.atomic import write_text

if TYPE_CHECKING:
    from launch.slurm import Job

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
    from launch.stages import preprocess_jobs

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
    from launch.stages import train_jobs

    cluster = load(Site, site, [])
    jobs = train_jobs(run, config, overrides or [], nodes, ranks_per_node, cluster)
    _launch(jobs, run, cluster, dry_run)


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
    from launch.stages import probe_jobs

    cluster = load(Site, site, [])
    runs = [Path(given) for given in runs_and_overrides if "=" not in given]
    overrides = [given for given in runs_and_overrides if "=" in given]
    if not runs:
        raise typer.BadParameter("name at least one run folder")
    _launch(probe_jobs(runs, out, config, overrides, cluster), out, cluster, dry_run)


def _launch(jobs: "list[Job]", out: Path, cluster: Site, dry_run: bool) -> None:
    from launch.slurm import describe, submit

    folder = out / "slurm"
    if dry_run:
        typer.echo(describe(jobs, folder, cluster))
        return
    write_text(folder / "site.json", cluster.model_dump_json(indent=1))
    for job, number in zip(jobs, submit(jobs, folder, cluster), strict=True):
        typer.echo(f"{job.name}: job {number}, logs {folder}/{number}*.out")
