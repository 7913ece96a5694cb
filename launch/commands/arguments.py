"""Arguments and options that several commands share."""

import re
from pathlib import Path
from typing import Annotated

import typer

from shards.errors import FmctError

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML recipe; launch/recipes has commented examples.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values that override those of the recipe."),
]
Workers = Annotated[int, typer.Option(min=1, help="Number of processes.")]
Encoder = Annotated[
    Path, typer.Option(help="A run folder, a checkpoint folder, or an encoder.safetensors file.")
]
Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH...", help="DICOM folders or archives, NIfTI files or folders of them, shard datasets."
    ),
]
Batch = Annotated[int, typer.Option(min=1, help="Scans per forward pass.")]
Device = Annotated[str, typer.Option(help="cpu, gpu, or a specific GPU such as gpu:1.")]
KeyFile = Annotated[
    Path | None, typer.Option(help="HMAC key file, to add the keys of studies and patients to the table.")
]
ClassifierFolder = Annotated[
    Path, typer.Option(help="Classifier folder written by `fmct export-classifier`.")
]
Predictions = Annotated[Path, typer.Option(help="Output folder; an existing one is resumed.")]


Extract = Annotated[
    int | None, typer.Option(help="Only run this feature extraction task; -1 joins their outputs.")
]
Plan = Annotated[bool, typer.Option("--plan", help="Only divide the grid, of all datasets, into tasks.")]
ShareOption = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Only run every N-th part from part I on, for a job array."),
]
Task = Annotated[int | None, typer.Option(help="Only run this task, numbered over all datasets.")]
Collect = Annotated[
    bool, typer.Option("--collect", help="Only join the results so far, also while others run.")
]
Status = Annotated[bool, typer.Option("--status", help="Only show what is done.")]


AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Allow the file to run Python functions as encoders even if it is stored with a dataset or "
        "weights, or is writable by others. Read it first.",
    ),
]


def is_override(given: str) -> bool:
    """Whether an argument among folders is an override: a folder's name may contain = too."""
    return re.match(r"[a-z_][\w.]*=", given) is not None and not Path(given).is_dir()


def at_most_one(**given: object) -> None:
    """Raise FmctError where several of these options, by their names, are given."""
    if sum(value is not None and value is not False for value in given.values()) > 1:
        *names, last = (f"--{name}" for name in given)
        raise FmctError(f"give at most one of {', '.join(names)} and {last}")


def recorded_configuration(run: Path) -> Path | None:
    """The configuration that a run recorded, for a command without --config; None if there is none.

    Raises FmctError if others can write to it, since it sets where `data.cache` writes.
    """
    from launch.own_code import written_by_others

    record = run / "config.json"
    if not record.is_file():
        return None
    if why := written_by_others(record):
        raise FmctError(
            f"{record}: {why}, so it is not used automatically; read it, and pass it with --config"
        )
    return record
