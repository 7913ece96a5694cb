"""`fmct launch status|logs|cancel`, and what batch scripts call when their job starts again or has ended."""

from pathlib import Path
from typing import Annotated

import typer

from launch.requeue import BACKOFF_SECONDS

watch_app = typer.Typer()

Run = Annotated[Path | None, typer.Option("--run", help="The run folder, of a training.")]
Folder = Annotated[
    Path | None, typer.Option("--folder", help="Where endings are noted; RUN/slurm if not given.")
]
# A batch script passes all arguments of its command, of which only --run matters here.
OTHERS = {"allow_extra_args": True, "ignore_unknown_options": True}


@watch_app.command(hidden=True, context_settings=OTHERS)
def before(run: Run = None, folder: Folder = None) -> None:
    """For batch scripts: Slurm started the job again; exit code 2 where it must not go on."""
    from launch.requeue import before

    if not before(_folder(run, folder), run):
        raise typer.Exit(2)


@watch_app.command(hidden=True, context_settings=OTHERS)
def after(
    code: Annotated[int, typer.Option(help="Exit code of the job's command.")],
    run: Run = None,
    folder: Folder = None,
    backoff: Annotated[
        float, typer.Option(envvar="FMCT_BACKOFF_SECONDS", min=1, help="Before a failed job's next start.")
    ] = BACKOFF_SECONDS,
) -> None:
    """For batch scripts: queue the job again, or say why not."""
    from launch.requeue import after

    after(_folder(run, folder), run, code, backoff)


def _folder(run: Path | None, folder: Path | None) -> Path:
    if folder is None and run is None:
        raise typer.BadParameter("give --run or --folder")
    return folder or Path(run or "") / "slurm"
