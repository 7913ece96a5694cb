"""The `fmct` command: the commands of `launch/commands`, error messages and exit codes."""

import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import typer

from launch.commands.console import set_up_logging
from launch.program import (
    collect_old_objects_rarely,
    disable_plugins,
    end_without_collecting,
    keep_working_folder_off_path,
    require_docstrings,
)
from launch.screen import echo, user_errors
from shards import caches
from shards.layers import named_layers
from shards.sharing import share

INTERRUPTED = 128 + signal.SIGINT
"""The exit code that typer gives to Ctrl-C, without a message."""

COMMANDS = {
    "doctor": ("setup", "doctor"),
    "recipes": ("setup", "recipes"),
    "show": ("show", "show"),
    "keygen": ("preprocessing", "keygen"),
    "scan": ("preprocessing", "scan"),
    "select": ("preprocessing", "select"),
    "preprocess": ("preprocessing", "preprocess"),
    "labels": ("preprocessing", "labels"),
    "masks": ("dense", "masks"),
    "trace": ("preprocessing", "trace"),
    "train": ("training", "train"),
    "compare": ("training", "compare"),
    "convert-weights": ("training", "convert_weights"),
    "export-model": ("training", "export_model"),
    "probe": ("evaluation", "probe"),
    "sweep": ("evaluation", "sweep"),
    "retrieval": ("evaluation", "retrieval"),
    "benchmark": ("benchmark", "benchmark"),
    "segment": ("dense", "segment"),
    "subgroups": ("evaluation", "subgroups"),
    "robustness": ("evaluation", "robustness"),
    "study": ("evaluation", "study"),
    "report": ("evaluation", "report"),
    "features": ("using", "features"),
    "export-classifier": ("using", "export_classifier"),
    "predict": ("using", "predict"),
    "similar": ("using", "similar"),
    "relevance": ("using", "relevance"),
    "import": ("preprocessing", "import_volumes"),
    "demo": ("preprocessing", "demo_app"),
    "shards": ("shards", "shards_app"),
    "launch": ("cluster", "launch_app"),
}
"""Each command and command group, in the order of the help, with its module in `launch.commands`."""

PANELS = {
    "setup": "Setup",
    "show": "Setup",
    "preprocessing": "Data",
    "shards": "Data",
    "training": "Training",
    "evaluation": "Evaluation",
    "benchmark": "Evaluation",
    "dense": "Evaluation",
    "using": "New scans",
    "cluster": "Slurm",
}
"""The heading in the help that the commands of a module are listed under."""


def built(words: Sequence[str] = ()) -> typer.Typer:
    """The command line; if the first of `words` is a command, with this command only.

    The other commands are then not imported. Help, completion and a mistyped name have all of them.
    """
    one = words[:1] if words and words[0] in COMMANDS else []
    app = typer.Typer(
        name="fmct",
        help="Pretrain and evaluate 3D foundation models on head CT: from raw DICOM to a report.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        # Options before a command: even where none is given, they cost as much as the help of most commands.
        add_completion=not one,
        add_help_option=not one,
    )
    app.callback()(caches.set_for_libraries)
    for name in one or COMMANDS:
        module, attribute = COMMANDS[name]
        found = getattr(import_module(f"launch.commands.{module}"), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name, rich_help_panel=PANELS[module])
        else:
            app.command(name, rich_help_panel=PANELS[module])(found)
    return app


def __getattr__(name: str) -> Any:
    """`app`: all commands."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return built()


def main() -> None:
    """Run the command line; an error that the user can fix is printed as one line, with exit code 2."""
    keep_working_folder_off_path()
    disable_plugins()
    collect_old_objects_rarely()
    end_without_collecting()
    try:
        _run()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            echo("fmct: interrupted: run the same command again to resume", err=True)
        if "torch.distributed" in sys.modules:
            from launch.ranks import end_rank

            end_rank(int(ended.code or 0))
        raise


def _run() -> None:
    set_up_logging()
    with user_errors():
        share(None)
        require_docstrings()
        with named_layers():
            built(sys.argv[1:])()


if __name__ == "__main__":
    main()
