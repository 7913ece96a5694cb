"""The commands from a DICOM export to shards and labels, and the demo's export."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from launch.commands.arguments import ConfigFile, Overrides, Workers, numbers_of_share
from launch.commands.console import progress
from launch.screen import echo
from shards.errors import FmctError

demo_app = typer.Typer(help="Make a synthetic PACS export to try the pipeline on.", no_args_is_help=True)

KeyFile = Annotated[Path, typer.Option(help="The HMAC key that identifiers are hidden with (`fmct keygen`).")]
CatalogFile = Annotated[Path, typer.Argument(help="The catalog that `fmct scan` wrote.")]


@demo_app.command("export")
def demo_export(
    out: Annotated[
        Path, typer.Argument(help="New folder: gets dicom/, labels.csv, measures.csv and truth.json.")
    ],
    studies: Annotated[int, typer.Option(min=1, help="Synthetic patients, one study each.")] = 48,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    matrix: Annotated[int, typer.Option(min=32, help="Rows and columns of a slice.")] = 192,
    real: Annotated[Path | None, typer.Option(help="Folder of a real series to put among them.")] = None,
    fractures: Annotated[
        float, typer.Option(help="Share of studies with a fracture that only thin or bone series show.")
    ] = 0.0,
    workers: Workers = 2,
    masks: Annotated[
        bool,
        typer.Option("--masks", help="The bleeds too, as NIfTI in masks/, with masks.csv for `fmct masks`."),
    ] = False,
) -> None:
    """Write DICOM of synthetic heads, with and without bleeds, in the disorder of several scanners."""
    from preprocess.demo.export import export

    with progress("export") as update:
        summary = export(out, studies, seed, matrix, real, workers, update, masks, fractures)
    echo(f"{out}: {summary}")


@demo_app.command("masks")
def demo_masks(
    export: Annotated[Path, typer.Argument(help="What `fmct demo export` wrote.")],
    data: Annotated[Path, typer.Option(help="A shard dataset of its volumes.")],
    key_file: KeyFile,
    out: Annotated[Path, typer.Option(help="Folder for the masks and their table, masks.csv.")],
) -> None:
    """Write where the bleeds of synthetic heads truly are, for `fmct relevance --masks`."""
    from launch.report.masks import TABLE, write_masks
    from preprocess.demo.volume_masks import volume_masks

    echo(f"{out / TABLE}: {write_masks(volume_masks(export, data, key_file), out)} masks")


def keygen(
    path: Annotated[Path, typer.Argument(help="File to make; keep it private and backed up.")],
) -> None:
    """Make the secret key that patient, study and series identifiers are hidden with."""
    from preprocess.privacy.deidentify import new_key

    new_key(path)
    echo(f"{path}: new key, readable by you only. Without it no volume can be traced to its patient.")


def scan(
    export: Annotated[Path, typer.Argument(help="Folder of DICOM files, in any order and depth.")],
    catalog: Annotated[Path, typer.Option(help="Parquet file to write, one row a series.")],
    workers: Workers = 2,
) -> None:
    """Read the headers of an export into a catalog of its series."""
    from preprocess.scan.run import scan as scan_export

    with progress("scan") as update:
        summary = scan_export(export, catalog, workers, update)
    echo(f"{catalog}: {summary}")


def select(
    catalog: CatalogFile,
    config: ConfigFile = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say for each series what decided.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write that table here (.csv or .parquet).")] = None,
    identified: Annotated[
        bool, typer.Option("--identified", help="Add UIDs and descriptions, to tune patterns by.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Count what the rules of a recipe would select from a catalog, and by which rule the rest falls out.

    Reads headers' facts only, so it takes minutes where preprocessing takes days; the pixels of a selected
    series may still turn out damaged. Without --identified series bear the keys that their volumes will.
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
        str | None, typer.Option(metavar="I/N", help="Only do every N-th task from I on, as Slurm arrays do.")
    ] = None,
    task: Annotated[int | None, typer.Option(help="Only do this task.")] = None,
    collect: Annotated[bool, typer.Option("--collect", help="Only join what the tasks made.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only say which tasks are done.")] = False,
    overrides: Overrides = None,
) -> None:
    """Turn catalogued series into volumes: decode, HU, untilt, resample, crop, de-identify, shard.

    Safe to repeat: only what is missing or changed is done again.
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
        number, of = numbers_of_share(share)
        with progress("preprocess") as update:
            tasks = run.run_share(catalog, out, number, of, settings, update)
        echo(f"{out}: share {share} is done, tasks: {tasks}")
    elif task is not None:
        echo(f"task {task}: {run.run_task(catalog, out, task, settings)}")
    elif collect:
        echo(f"{out}: {run.collect(out, settings)}")
    else:
        with progress("preprocess") as update:
            echo(f"{out}: {run.preprocess(catalog, out, settings, update)}")


def import_volumes(
    table: Annotated[
        Path, typer.Argument(help="CSV or Parquet with path, patient and study, a row a volume.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for shards, manifest, quarantine and QC.")] = None,
    catalog: Annotated[
        Path | None, typer.Option(help="Keep the catalog here, for select, trace, labels and Slurm's tasks.")
    ] = None,
    format: Annotated[
        Literal["plain", "reference"],
        typer.Option(help="Such a table, or the folder of the reference's split tables of RSNA or CQ500."),
    ] = "plain",
    root: Annotated[
        Path | None, typer.Option(help="Folder that paths are relative to; the table's own if not given.")
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Turn volumes that are no DICOM (NIfTI, NRRD, MetaImage, .npy) into shards, as `preprocess` does series.

    Safe to repeat: only what is missing or changed is done again. With --catalog alone, nothing but the
    catalog is written, and `fmct preprocess` goes on from it.
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
        Path, typer.Argument(help="CSV or Parquet with study_instance_uid and 0/1 label columns.")
    ],
    key_file: KeyFile,
    out: Annotated[Path, typer.Option(help="Parquet file to write, keyed as the volumes are.")],
    format: Annotated[
        Literal["plain", "rsna2019", "cq500", "reference"],
        typer.Option(
            help="Such a table, stage_2_train.csv of RSNA 2019, reads.csv of CQ500, or the folder of the "
            "reference's split tables."
        ),
    ] = "plain",
    catalog: Annotated[
        Path | None, typer.Option(help="Of these two: the catalog of the dataset's scan, ...")
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(help="... or a CSV with study_instance_uid and sop_instance_uid (CQ500: name)."),
    ] = None,
    parts: Annotated[
        Path | None,
        typer.Option(help="parts.parquet of `fmct shards split`: gives the studies' column split."),
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option(help="What columns hold that are not 0/1: '{grade: ordinal, died: {survival: days}}'."),
    ] = None,
) -> None:
    """Key a table of labels as the volumes are keyed, so that the two can be joined without identifiers."""
    from launch.config import load
    from preprocess.labels import key_labels
    from shards.label_kinds import LabelKinds

    told = load(LabelKinds, None, [f"kinds={kinds}"] if kinds else []).kinds
    echo(f"{out}: {key_labels(table, key_file, out, format, catalog, mapping, parts, told)}")


def trace(
    catalog: CatalogFile,
    key: Annotated[str, typer.Argument(help="A volume's or quarantined series' key.")],
    key_file: KeyFile,
) -> None:
    """Find the series behind a key: the hospital's own way back, for those who hold the HMAC key."""
    from preprocess.privacy.trace import trace as trace_key

    series = trace_key(catalog, key_file, key)
    echo(f"series {series.series_uid}, study {series.study_uid}, {len(series.instances)} instances:")
    for instance in series.instances:
        echo(f"  {instance.path}" + (f", member {instance.member}" if instance.member else ""))
