"""The commands of dense evaluation: masks of the volumes, and segmentation heads on frozen features."""

from pathlib import Path
from typing import Annotated

import typer

from launch.commands.arguments import (
    AllowCode,
    Extract,
    KeyFile,
    Overrides,
    ShareOption,
    Workers,
    at_most_one,
)
from launch.commands.console import progress
from launch.screen import echo
from shards.share import Share


def masks(
    table: Annotated[
        Path,
        typer.Argument(
            help="CSV or Parquet with columns path and study_instance_uid (or key), one row per mask."
        ),
    ],
    data: Annotated[Path, typer.Option(help="Shard dataset of the volumes.")],
    out: Annotated[Path, typer.Option(help="Folder for the mask dataset; an existing one is resumed.")],
    classes: Annotated[
        list[str],
        typer.Option(
            "--class",
            help="Class as NAME=VALUE, where VALUE is a voxel value, a segment's number or code, or a value "
            "of the table's column class (NAME alone means NAME=NAME). Repeatable.",
        ),
    ],
    key_file: KeyFile = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder that paths are relative to; by default the table's folder.")
    ] = None,
    workers: Workers = 2,
) -> None:
    """Resample masks (NIfTI, NRRD, MetaImage, DICOM Segmentation) to the volumes' grids, as a dataset.

    Rows that cannot be used are listed with reasons in OUT/refused.parquet; all others are stored.
    """
    from preprocess.masks.run import masks as store

    with progress("masks") as update:
        echo(f"{out}: {store(table, data, out, classes, key_file, root, workers, update)}")


def segment(
    config: Annotated[
        Path, typer.Argument(help="YAML configuration; see launch/recipes/segment-example.yaml.")
    ],
    out: Annotated[Path, typer.Option(help="Output folder for the tables; an existing one is resumed.")],
    extract: Extract = None,
    share: ShareOption = None,
    allow_code: AllowCode = False,
    overrides: Overrides = None,
) -> None:
    """Compare encoders by segmentation heads on frozen patch tokens: Dice and surface distances.

    Safe to repeat: only missing or changed parts are computed.
    """
    at_most_one(extract=extract, share=share)
    from fmct_hpc.dense.config import SegmentConfig
    from fmct_hpc.dense.run import Segmentation, printed
    from launch.own_code import load_own

    whole = Segmentation(load_own(SegmentConfig, config, overrides or [], allow_code), out)
    if extract is not None:
        whole.extract(None if extract == -1 else extract)
        return
    with progress("segment") as update:
        if share is not None:
            count = whole.run_share(*Share.parse(share), update)
            echo(f"share {share}: {count} units are done; the command without --share writes the tables")
            return
        results = whole.run(update)
    echo(printed(results))
    echo(f"{out}: all results, volumes and comparisons, with intervals")
