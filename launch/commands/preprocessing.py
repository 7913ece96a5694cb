"""The commands from a DICOM export to shards and labels, and for the synthetic export."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from launch.commands.arguments import ConfigFile, Overrides, Workers
from launch.commands.console import progress
from launch.screen import echo
from shards.errors import FmctError
from shards.share import Share

demo_app = typer.Typer(help="Generate synthetic data to try the pipeline with.", no_args_is_help=True)

KeyFile = Annotated[Path, typer.Option(help="HMAC key file for pseudonyms (see `fmct keygen`).")]
CatalogFile = Annotated[Path, typer.Argument(help="Catalog written by `fmct scan`.")]


@demo_app.command("export")
def demo_export(
    out: Annotated[
        Path, typer.Argument(help="New folder for dicom/, labels.csv, measures.csv and truth.json.")
    ],
    studies: Annotated[int, typer.Option(min=1, help="Number of synthetic patients, one study each.")] = 48,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same bytes.")] = 0,
    matrix: Annotated[int, typer.Option(min=32, help="Rows and columns of a slice.")] = 192,
    real: Annotated[Path | None, typer.Option(help="Folder of a real series to include.")] = None,
    fractures: Annotated[
        float,
        typer.Option(help="Fraction of studies with a fracture that is visible only in thin or bone series."),
    ] = 0.0,
    workers: Workers = 2,
    masks: Annotated[
        bool,
        typer.Option("--masks", help="Also write NIfTI masks of the bleeds, and masks.csv for `fmct masks`."),
    ] = False,
) -> None:
    """Write a synthetic PACS export: DICOM head CTs of several scanners, with and without bleeds."""
    from preprocess.demo.export import export

    with progress("export") as update:
        summary = export(out, studies, seed, matrix, real, workers, update, masks, fractures)
    echo(f"{out}: {summary}")


@demo_app.command("masks")
def demo_masks(
    export: Annotated[Path, typer.Argument(help="Output folder of `fmct demo export`.")],
    data: Annotated[Path, typer.Option(help="Shard dataset of its volumes.")],
    key_file: KeyFile,
    out: Annotated[Path, typer.Option(help="Folder for the masks and their table, masks.csv.")],
) -> None:
    """Write the ground-truth masks of the synthetic bleeds, for `fmct relevance --masks`."""
    from launch.report.masks import TABLE, write_masks
    from preprocess.demo.volume_masks import volume_masks

    echo(f"{out / TABLE}: {write_masks(volume_masks(export, data, key_file), out)} masks")


def keygen(
    path: Annotated[Path, typer.Argument(help="File to create; keep it private and back it up.")],
) -> None:
    """Create the secret key for pseudonyms of patients, studies and series."""
    from preprocess.privacy.deidentify import new_key

    new_key(path)
    echo(f"{path}: new key, readable only by you. Without it volumes cannot be traced to patients.")


def scan(
    export: Annotated[Path, typer.Argument(help="Folder of DICOM files and archives, searched recursively.")],
    catalog: Annotated[Path, typer.Option(help="Parquet file to write, with one row per series.")],
    workers: Workers = 2,
) -> None:
    """Read the DICOM headers of an export into a catalog with one row per series.

    A rerun resumes an interrupted scan, and reads only new and changed files.
    """
    from preprocess.scan.run import scan as scan_export

    with progress("scan") as update:
        summary = scan_export(export, catalog, workers, update)
    echo(f"{catalog}: {summary}")


def select(
    catalog: CatalogFile,
    config: ConfigFile = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="List each series with the rule that decided.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the table of all series to this .csv or .parquet file.")
    ] = None,
    identified: Annotated[
        bool, typer.Option("--identified", help="Add UIDs and descriptions, for tuning patterns.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Count the series that a recipe selects from a catalog, and the others by reason.

    Uses only header data from the catalog, so it takes minutes where preprocessing takes days; a selected
    series may still have damaged pixels. Series are shown by the keys of their volumes unless --identified
    is given.
    """
    from launch.commands.selection import decide
    from launch.config import load
    from preprocess.config import PreprocessConfig

    settings = load(PreprocessConfig, config, overrides or [])
    with progress("select") as update:
        selection = decide(catalog, settings, explain, out, identified, update)
    selection.print()


def preprocess(
    catalog: CatalogFile,
    out: Annotated[Path, typer.Option(help="Folder for shards, manifest, quarantine and QC.")],
    config: ConfigFile = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only divide the work into tasks.")] = False,
    share: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only process every N-th task from task I on.")
    ] = None,
    task: Annotated[int | None, typer.Option(help="Only process this task.")] = None,
    collect: Annotated[bool, typer.Option("--collect", help="Only join the outputs of the tasks.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only show which tasks are done.")] = False,
    overrides: Overrides = None,
) -> None:
    """Convert catalogued series to shards: decode, HU, tilt correction, resample, crop, de-identify.

    Safe to repeat: only missing or changed tasks are processed.
    """
    if sum([plan, share is not None, task is not None, collect, status]) > 1:
        raise FmctError("give at most one of --plan, --share, --task, --collect and --status")
    from launch.config import load
    from preprocess import run
    from preprocess.config import PreprocessConfig

    if status:
        echo(run.status(out))
        return
    settings = load(PreprocessConfig, config, overrides or [])
    if plan:
        echo(f"{out}: {run.plan(catalog, out, settings)} tasks")
    elif share is not None:
        number, of = Share.parse(share)
        with progress("preprocess") as update:
            tasks = run.run_share(catalog, out, number, of, settings, update)
        echo(f"{out}: share {share} done, tasks: {tasks}")
    elif task is not None:
        echo(f"task {task}: {run.run_task(catalog, out, task, settings)}")
    elif collect:
        echo(f"{out}: {run.collect(out, settings)}")
    else:
        with progress("preprocess") as update:
            echo(f"{out}: {run.preprocess(catalog, out, settings, update)}")


def import_volumes(
    table: Annotated[
        Path, typer.Argument(help="CSV or Parquet with columns path, patient and study, one row per volume.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for shards, manifest, quarantine and QC.")] = None,
    catalog: Annotated[
        Path | None,
        typer.Option(help="Write the catalog to this file, for select, preprocess, trace and labels."),
    ] = None,
    format: Annotated[
        Literal["plain", "reference"],
        typer.Option(
            help="plain: a table as above; reference: the folder of the reference's split tables of RSNA or "
            "CQ500."
        ),
    ] = "plain",
    root: Annotated[
        Path | None, typer.Option(help="Folder that paths are relative to; by default the table's folder.")
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Import volumes that are not DICOM (NIfTI, NRRD, MetaImage, .npy) as shards.

    Safe to repeat: only missing or changed tasks are processed. With --catalog but without --out, only the
    catalog is written, for use with `fmct preprocess`.
    """
    from launch.commands.imports import run_import
    from launch.config import load
    from preprocess.config import PreprocessConfig

    if out is None and catalog is None:
        raise FmctError("give --out, --catalog or both: nothing would be written")
    settings = load(PreprocessConfig, config, overrides or []) if out else None
    run_import(table, out, catalog, format, root, settings)


def labels(
    table: Annotated[
        Path, typer.Argument(help="CSV or Parquet with a column study_instance_uid and 0/1 label columns.")
    ],
    key_file: KeyFile,
    out: Annotated[Path, typer.Option(help="Parquet file to write, with the keys of the volumes.")],
    format: Annotated[
        Literal["plain", "rsna2019", "cq500", "reference"],
        typer.Option(
            help="plain: a table as above; rsna2019: stage_2_train.csv; cq500: reads.csv; reference: the "
            "folder of the reference's split tables."
        ),
    ] = "plain",
    catalog: Annotated[
        Path | None, typer.Option(help="For rsna2019 and cq500: the catalog of the dataset's scan.")
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(
            help="For rsna2019 and cq500, instead of --catalog: a CSV with study_instance_uid and "
            "sop_instance_uid (CQ500: name)."
        ),
    ] = None,
    parts: Annotated[
        Path | None,
        typer.Option(help="parts.parquet of `fmct shards split`, to add the column split."),
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option(help="Types of columns that are not 0/1: '{grade: ordinal, died: {survival: days}}'."),
    ] = None,
) -> None:
    """Replace the identifiers in a label table by keys, so that it can be joined with the volumes."""
    from launch.config import load
    from preprocess.labels import key_labels
    from shards.label_kinds import LabelKinds

    label_kinds = load(LabelKinds, None, [f"kinds={kinds}"] if kinds else []).kinds
    echo(f"{out}: {key_labels(table, key_file, out, format, catalog, mapping, parts, label_kinds)}")


def trace(
    catalog: CatalogFile,
    key: Annotated[str, typer.Argument(help="Key of a volume or of a quarantined series.")],
    key_file: KeyFile,
) -> None:
    """Find the DICOM series of a key (re-identification; needs the HMAC key)."""
    from preprocess.privacy.trace import trace as trace_key

    series = trace_key(catalog, key_file, key)
    echo(f"series {series.series_uid}, study {series.study_uid}, {len(series.instances)} instances:")
    for instance in series.instances:
        echo(f"  {instance.path}" + (f", member {instance.member}" if instance.member else ""))
