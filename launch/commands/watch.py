"""`fmct launch status|logs|cancel`, and what batch scripts call when their job starts again or has ended."""

import os
from pathlib import Path
from typing import Annotated

import typer

from launch.slurm.progress import Kept, extracted
from launch.slurm.requeue import BACKOFF_SECONDS
from shards.errors import FmctError

watch_app = typer.Typer()

Run = Annotated[Path | None, typer.Option("--run", help="The run folder, of a training.")]
Folder = Annotated[
    Path | None, typer.Option("--folder", help="Where endings are noted; RUN/slurm if not given.")
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Of preprocessing or a sweep that an array shares out.")
]
Sweep = Annotated[bool, typer.Option("--sweep", help="OUT is a sweep's.")]
Extract = Annotated[
    int | None, typer.Option("--extract", help="Of a sweep's features; its recipe and overrides come too.")
]
Probe = Annotated[
    list[Path] | None, typer.Option("--probe", help="A probe's output folder; of an array, of each task.")
]
Catalog = Annotated[Path | None, typer.Option("--catalog", help="What the scan writes.")]
# A batch script passes all arguments of its command, of which only these matter here.
OTHERS = {"allow_extra_args": True, "ignore_unknown_options": True}


Watched = Annotated[Path, typer.Argument(help="A run folder, or the --out of another stage.")]


@watch_app.command()
def status(folder: Watched) -> None:
    """Say how a folder's jobs stand: state, node, step, loss, last checkpoint, restarts and their reasons."""
    from rich.console import Console

    from launch.slurm.status import status

    status(folder, Console())


@watch_app.command()
def logs(
    folder: Watched,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing what is written.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last.")] = 50,
    rank: Annotated[int | None, typer.Option(min=0, help="Only this rank's log.")] = None,
) -> None:
    """Show the newest attempt's logs, that of the rank that failed first; needs `tail`."""
    from launch.slurm.watch import newest_log

    paths = newest_log(folder, rank)
    os.execvp("tail", ["tail", "--lines", str(lines), *(["-F"] if follow else []), *map(str, paths)])


@watch_app.command()
def cancel(folder: Watched) -> None:
    """Cancel all jobs of a folder, waiting ones and those that queued themselves again among them."""
    from launch.slurm import scheduler
    from launch.slurm.watch import look_at_all

    pictures = look_at_all(folder)
    if not all(picture.answered for picture in pictures):
        raise FmctError("slurmctld does not answer: nothing was cancelled; try again")
    alive = [job for picture in pictures for job in picture.alive]
    if not alive:
        typer.echo(f"{folder}: no job waits or runs")
        return
    numbers = sorted({job.array for job in alive}, key=int)
    if trouble := scheduler.command("scancel", *numbers):
        raise FmctError(f"Slurm did not cancel jobs {', '.join(numbers)}: {trouble}")
    for job in alive:
        typer.echo(f"job {job.job} ({job.name}, {job.state.lower()}): cancelled")


@watch_app.command(hidden=True, context_settings=OTHERS)
def before(
    context: typer.Context,
    run: Run = None,
    folder: Folder = None,
    out: Out = None,
    catalog: Catalog = None,
    sweep: Sweep = False,
    extract: Extract = None,
    probe: Probe = None,
) -> None:
    """For batch scripts: Slurm started the job again; exit code 2 where it must not go on."""
    from launch.slurm.requeue import before

    if not before(_folder(run, folder), _kept(context.args, run, out, catalog, sweep, extract, probe)):
        raise typer.Exit(2)


@watch_app.command(hidden=True, context_settings=OTHERS)
def after(
    context: typer.Context,
    code: Annotated[int, typer.Option(help="Exit code of the job's command.")],
    run: Run = None,
    folder: Folder = None,
    out: Out = None,
    catalog: Catalog = None,
    sweep: Sweep = False,
    extract: Extract = None,
    probe: Probe = None,
    backoff: Annotated[
        float, typer.Option(envvar="FMCT_BACKOFF_SECONDS", min=1, help="Before a failed job's next start.")
    ] = BACKOFF_SECONDS,
) -> None:
    """For batch scripts: queue the job again, or say why not."""
    from launch.slurm.requeue import after

    kept = _kept(context.args, run, out, catalog, sweep, extract, probe)
    after(_folder(run, folder), kept, code, backoff)


def _kept(
    arguments: list[str],
    run: Path | None,
    out: Path | None,
    catalog: Path | None,
    sweep: bool,
    extract: int | None,
    probe: list[Path] | None,
) -> Kept:
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    if extract is not None and arguments:
        return Kept(stores=extracted(Path(arguments[0]), arguments[1:], int(task or extract)))
    if probe:
        return Kept(probe=probe[int(task or 0)] if len(probe) > 1 else probe[0])
    return Kept(run, None if sweep else out, catalog, out if sweep else None)


def _folder(run: Path | None, folder: Path | None) -> Path:
    if folder is None and run is None:
        raise typer.BadParameter("give --run or --folder")
    return folder or Path(run or "") / "slurm"
