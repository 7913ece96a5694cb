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
