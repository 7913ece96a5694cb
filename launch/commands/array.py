"""`fmct launch array`: commands that divide their work, as a job array."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from shards.errors import FmctError


class Divided(NamedTuple):
    """A command with --share."""

    module: str
    """Its module in `launch.commands`."""
    config: str | None = None
    """The model of its YAML configuration; None if it has none, and its paths are tested instead."""
    last: tuple[str, ...] = ()
    """The options of the job that joins the results; without any it is the whole command, which computes what
    is missing and then joins."""


DIVIDED = {
    "segment": Divided("dense", "fmct_hpc.dense.config:SegmentConfig"),
    "robustness": Divided("evaluation", "fmct_hpc.robustness.config:RobustnessConfig"),
    "benchmark": Divided("benchmark", "fmct_hpc.benchmark.config:BenchmarkConfig"),
    "relevance": Divided("using", last=("--collect",)),
    "features": Divided("using", last=("--collect",)),
}
"""Sweeps, predictions and preprocessing have separate commands in `fmct launch`."""

INPUTS = ("paths", "classifier", "encoder", "beside", "masks", "key_file")
"""The paths that commands without a configuration read."""

Words = Annotated[
    list[str],
    typer.Argument(
        metavar="-- COMMAND...",
        help="segment, robustness, benchmark, relevance or features, with its arguments.",
    ),
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
    divided = DIVIDED[name]
    app = typer.Typer()
    app.command(name)(getattr(import_module(f"launch.commands.{divided.module}"), name))
    values: dict[str, Any] = typer.main.get_command(app).make_context(name, rest).params
    for option in ("extract", "share", "plan", "task", "collect", "status"):
        given = values.get(option)
        if given not in (None, False) and not isinstance(given, list | tuple):  # --task may name labels
            raise FmctError(f"launch array: leave out --{option}, which its jobs set")
    if divided.config is None:
        if values.get("private_map") is not None:
            raise FmctError("launch array: --private-map needs all paths in one process; leave it out")
        _require_paths(values)
        return values
    from launch.own_code import load_own

    place, _, of_model = divided.config.partition(":")
    given = Path(values["config"]), values["overrides"] or [], values["allow_code"]
    load_own(getattr(import_module(place), of_model), *given)
    return values


def before_and_last(name: str, values: dict[str, Any]) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The options of the jobs before a command's array, by job, and those of the last job."""
    steps = {"plan": ("planned", ("--plan",)), "extract": ("features", ("--extract", "-1"))}
    return dict(job for option, job in steps.items() if option in values), DIVIDED[name].last


def _require_paths(values: dict[str, Any]) -> None:
    """Raise FmctError for the first input that does not exist."""
    for name in INPUTS:
        given = values.get(name) or ()
        for path in given if isinstance(given, tuple | list) else [given]:
            if not Path(path).exists():
                raise FmctError(f"launch array: {path}: no such file or folder")


def output(values: dict[str, Any]) -> Path:
    """The command's --out."""
    return Path(values["out"])
