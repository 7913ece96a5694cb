"""The commands of dense evaluation: masks beside the volumes, and segmentation heads on frozen features."""

from pathlib import Path
from typing import Annotated

import typer

from launch.commands.arguments import AllowCode, KeyFile, Overrides, Workers
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


def segment(
    config: Annotated[Path, typer.Argument(help="YAML; see launch/recipes/segment-example.yaml.")],
    out: Annotated[Path, typer.Option(help="Folder for the tables; an existing one is resumed.")],
    allow_code: AllowCode = False,
    overrides: Overrides = None,
) -> None:
    """Compare encoders by what heads on their frozen patch tokens segment: Dice and surface distances.

    Safe to repeat: what is done is kept, what is missing or changed is done.
    """
    from fmct_hpc.dense.config import SegmentConfig
    from fmct_hpc.dense.run import Segmentation, printed
    from launch.own_code import load_own

    settings = load_own(SegmentConfig, config, overrides or [], allow_code)
    with progress("segment") as update:
        results = Segmentation(settings, out).run(update)
    echo(printed(results))
    echo(f"{out}: every result, volume and comparison, with intervals")
