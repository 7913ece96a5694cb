"""The `fmct` command: what `launch/commands` has for every stage, and how a command ends."""

import signal
import sys

import typer

from launch.commands.cluster import launch_app
from launch.commands.console import set_up_logging
from launch.commands.evaluation import probe, report, retrieval, study, subgroups, sweep
from launch.commands.preprocessing import (
    demo_app,
    import_volumes,
    keygen,
    labels,
    preprocess,
    scan,
    select,
    trace,
)
from launch.commands.setup import doctor, recipes
from launch.commands.shards import shards_app
from launch.commands.training import compare, convert_weights, export_model, train
from launch.commands.using import export_classifier, features, predict, similar
from launch.program import keep_working_folder_off_path, require_docstrings
from launch.ranks import end_rank
from launch.screen import echo
from shards import caches
from shards.errors import FmctError, refusal
from shards.sharing import share

INTERRUPTED = 128 + signal.SIGINT
"""What typer makes of Ctrl-C, without a word."""

app = typer.Typer(
    name="fmct",
    help="Head CT from raw DICOM to a pretrained 3D model: scan, preprocess, train, probe, report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(demo_app, name="demo")
app.add_typer(shards_app, name="shards")
app.add_typer(launch_app, name="launch")
app.callback()(caches.set_for_libraries)
for command in (
    *(doctor, recipes, keygen, scan, select, preprocess, labels, trace),
    *(train, compare, convert_weights, export_model),
    *(probe, sweep, retrieval, subgroups, study, report),
    *(features, export_classifier, predict, similar),
):
    app.command()(command)
app.command("import")(import_volumes)


def main() -> None:
    """Run the command line; a mistake the user can mend is one line and exit code 2."""
    keep_working_folder_off_path()
    try:
        _run()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            echo("fmct: stopped: run the same command again", err=True)
        end_rank(int(ended.code or 0))
        raise


def _run() -> None:
    set_up_logging()
    try:
        share(None)
        require_docstrings()
        app()
    except (FmctError, OSError, MemoryError) as error:
        told = error if isinstance(error, FmctError) else refusal(error)
        if told is None:
            raise
        echo(f"fmct: {told}", err=True)
        sys.exit(told.exit_code)


if __name__ == "__main__":
    main()
