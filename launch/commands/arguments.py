"""What several commands take, and how `--share I/N` is read."""

import re
from pathlib import Path
from typing import Annotated

import typer

from shards.errors import FmctError

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML recipe; see launch/recipes for commented ones.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values that override the recipe's."),
]
Workers = Annotated[int, typer.Option(min=1, help="Processes.")]
Encoder = Annotated[Path, typer.Option(help="A run folder, a checkpoint's, or an encoder.safetensors.")]
Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH...", help="DICOM folders or archives, NIfTI files or folders of them, shard datasets."
    ),
]
Batch = Annotated[int, typer.Option(min=1, help="Scans that pass the encoder at once.")]
Device = Annotated[str, typer.Option(help="cpu, gpu or gpu:1.")]
KeyFile = Annotated[
    Path | None, typer.Option(help="The HMAC key, for the keys of studies and patients in the table.")
]
Kept = Annotated[Path, typer.Option(help="A folder that `fmct export-classifier` wrote.")]
Predictions = Annotated[Path, typer.Option(help="Folder for the predictions; an existing one is resumed.")]


AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Run the functions that the file names as encoders, though it lies with a dataset or weights, "
        "or others can write it: read it first.",
    ),
]


def is_override(given: str) -> bool:
    """Whether an argument among folders is a value for the recipe: a folder may have = in its name too."""
    return re.match(r"[a-z_][\w.]*=", given) is not None and not Path(given).is_dir()


def numbers_of_share(text: str) -> tuple[int, int]:
    """I and N of I/N."""
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and int(number) < int(of)):
        raise FmctError(f"--share {text}: expected I/N, with I from 0 to N - 1")
    return int(number), int(of)


def recorded_configuration(run: Path) -> Path | None:
    """The configuration that a run recorded, for a command without --config; None where it has none.

    It says where `data.cache` writes: FmctError where others can write it.
    """
    from launch.own_code import written_by_others

    record = run / "config.json"
    if not record.is_file():
        return None
    if why := written_by_others(record):
        raise FmctError(
            f"{record}: {why}, so that it is not taken for yours; read it, and give it by --config"
        )
    return record
