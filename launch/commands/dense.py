"""The commands of dense evaluation: masks beside the volumes, and segmentation heads on frozen features."""

from pathlib import Path
from typing import Annotated

import typer

from launch.commands.arguments import KeyFile, Workers
from launch.commands.console import progress
from launch.screen import echo


def masks(
    table: Annotated[
        Path, typer.Argument(help="CSV or Parquet with path and study_instance_uid (or key), a row a mask.")
    ],
    data: Annotated[Path, typer.Option(help="The shard dataset of the volumes.")],
    out: Annotated[Path, typer.Option(help="Folder for the dataset of masks; an existing one is resumed.")],
    classes: Annotated[
        list[str],
        typer.Option(
            "--class",
            help="NAME=VALUE, once for each value: a voxel's value, a segment's number or code, or a word of "
            "the table's column class (NAME alone stands for itself).",
        ),
    ],
    key_file: KeyFile = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder that paths are relative to; the table's own if not given.")
    ] = None,
    workers: Workers = 2,
) -> None:
    """Bring masks (NIfTI, NRRD, MetaImage, DICOM Segmentation) to the volumes' grids, as a dataset.

    A row that cannot be used has its reason in OUT/refused.parquet, and all others are stored.
    """
    from preprocess.masks.run import masks as store

    with progress("masks") as update:
        echo(f"{out}: {store(table, data, out, classes, key_file, root, workers, update)}")
