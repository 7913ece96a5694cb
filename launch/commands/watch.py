"""`fmct launch status|logs|cancel`, and the hidden commands that batch scripts call."""

import subprocess
from pathlib import Path
from typing import Annotated

import typer

from launch.scheduler import BACKOFF_SECONDS
from launch.screen import echo
from shards.errors import FmctError

watch_app = typer.Typer()

Run = Annotated[Path | None, typer.Option("--run", help="Run folder of a training.")]
Folder = Annotated[
    Path | None, typer.Option("--folder", help="Folder for the records of endings; default: RUN/slurm.")
]
# train.sbatch passes all arguments of its command, of which --run is used.
OTHERS = {"allow_extra_args": True, "ignore_unknown_options": True}


Watched = Annotated[Path, typer.Argument(help="A run folder, or the --out folder of another stage.")]


@watch_app.command()
def status(folder: Watched) -> None:
    """Show the state of a folder's jobs: nodes, step, loss, newest checkpoint, restarts and their causes."""
    from launch.jobs.status import status
    from launch.schedulers import scheduler

    status(folder, scheduler())


@watch_app.command()
def logs(
    folder: Watched,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing new lines as they are written.")
    ] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Number of last lines to show.")] = 50,
    rank: Annotated[int | None, typer.Option(min=0, help="Show only the log of this rank.")] = None,
) -> None:
    """Show the logs of the newest attempt, starting with the rank that failed first (needs `tail`)."""
    from launch.jobs.watch import newest_log
    from launch.schedulers import scheduler

    paths = newest_log(folder, scheduler(), rank)
    command = ["tail", "--lines", str(lines), *(["-F"] if follow else []), "--", *map(str, paths)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tail:
        for line in tail.stdout or ():
            echo(line.removesuffix(b"\n").decode(errors="surrogateescape"))
    raise typer.Exit(tail.returncode)


@watch_app.command()
def cancel(folder: Watched) -> None:
    """Cancel all jobs of a folder, including pending ones and those that are queued again."""
    from launch.jobs.watch import overviews_of, writes
    from launch.schedulers import scheduler

    cluster = scheduler()
    overviews = overviews_of(folder, cluster)
    if not all(overview.answered for overview in overviews):
        raise FmctError(f"{cluster.title} does not answer: nothing was cancelled; try again later")
    alive = [job for overview in overviews for job in overview.alive if writes(job, overview.folder)]
    for number in sorted({job.array for overview in overviews for job in overview.alive if job not in alive}):
        echo(
            f"job {number}: not cancelled: recorded here, but it does not write here according to "
            f"{cluster.title}"
        )
    if not alive:
        echo(f"{folder}: no pending or running jobs")
        return
    numbers = sorted({job.array for job in alive}, key=int)
    errors = {number: error for number in numbers if (error := cluster.cancel(number))}
    for job in alive:
        if job.array not in errors:
            echo(f"job {job.job} ({job.name}, {job.state.lower()}): cancelled")
    if errors:
        why = "; ".join(dict.fromkeys(errors.values()))
        raise FmctError(f"{cluster.title} did not cancel jobs {', '.join(errors)}: {why}")


@watch_app.command(hidden=True, context_settings=OTHERS)
def before(run: Run = None, folder: Folder = None) -> None:
    """For batch scripts that are started again; exit code 2 if the job must not continue."""
    from launch.jobs.requeue import before
    from launch.schedulers import scheduler

    if not before(_folder(run, folder), run, scheduler()):
        raise typer.Exit(2)


@watch_app.command(hidden=True, context_settings=OTHERS)
def after(
    code: Annotated[int, typer.Option(help="Exit code of the job's command.")],
    run: Run = None,
    folder: Folder = None,
    backoff: Annotated[
        float,
        typer.Option(envvar="FMCT_BACKOFF_SECONDS", min=1, help="Seconds before a failed job's next start."),
    ] = BACKOFF_SECONDS,
) -> None:
    """For batch scripts that have ended: queue the job again, or log why not."""
    from launch.jobs.requeue import after
    from launch.schedulers import scheduler

    after(_folder(run, folder), run, code, backoff, scheduler())


@watch_app.command(hidden=True)
def job_script() -> None:
    """For batch scripts: print the path of the file of shell functions that they source."""
    echo(Path(__file__).parents[1] / "job.sh")


def _folder(run: Path | None, folder: Path | None) -> Path:
    if folder is None and run is None:
        raise typer.BadParameter("give --run or --folder")
    return folder or Path(run or "") / "slurm"
