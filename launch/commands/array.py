"""`fmct launch array`: commands that divide their work, as a job array."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from shards.errors import FmctError

DIVIDED = {
    "segment": ("dense", "segment", "fmct_hpc.dense.config:SegmentConfig"),
    "robustness": ("evaluation", "robustness", "fmct_hpc.robustness.config:RobustnessConfig"),
    "benchmark": ("benchmark", "benchmark", "fmct_hpc.benchmark.config:BenchmarkConfig"),
}
"""Commands with --share and --extract: their modules in `launch.commands`, and their configurations. Sweeps,
predictions and preprocessing have commands of their own in `fmct launch`."""

Words = Annotated[
    list[str],
    typer.Argument(metavar="-- COMMAND...", help="segment, robustness or benchmark, with its arguments."),
]
Tasks = Annotated[int, typer.Option(min=1, help="Maximum number of array tasks.")]


def parsed(words: list[str]) -> dict[str, Any]:
    """The values of a command's parameters by name, parsed as by `fmct` without running the command.

    Raises FmctError for another command, for the options that the jobs set themselves, and, here and not in
    the queue, for an invalid configuration.
    """
    name, *rest = words
    if name not in DIVIDED:
        own = f"; use `fmct launch {name}`" if name in ("sweep", "predict", "preprocess") else ""
        raise FmctError(f"launch array: {name} is none of {', '.join(DIVIDED)}{own}")
    module, attribute, model = DIVIDED[name]
    app = typer.Typer()
    app.command(name)(getattr(import_module(f"launch.commands.{module}"), attribute))
    values: dict[str, Any] = typer.main.get_command(app).make_context(name, rest).params
    for option in ("extract", "share", "plan", "task", "collect", "status"):
        if values.get(option) not in (None, False):
            raise FmctError(f"launch array: leave out --{option}, which its jobs set")
    from launch.own_code import load_own

    place, _, of_model = model.partition(":")
    given = Path(values["config"]), values["overrides"] or [], values["allow_code"]
    load_own(getattr(import_module(place), of_model), *given)
    return values


def output(values: dict[str, Any]) -> Path:
    """The command's --out."""
    return Path(values["out"])
