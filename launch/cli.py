"""The `fmct` command: every stage of the pipeline, each a thin layer over the function that does the work."""

import errno
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from launch.commands.cluster import launch_app
from launch.commands.console import progress, set_up_logging
from launch.commands.setup import doctor, recipes
from launch.commands.shards import shards_app
from launch.config import load
from launch.ranks import end_rank, run_ranks
from shards.errors import DISK_FULL, FmctError, NoRoomError

# The stages' own modules are imported inside the commands: `fmct --help` must not wait for torch.

log = logging.getLogger("fmct")

DISK_FAILURES = (*DISK_FULL, errno.EROFS)
"""Not defects of ours: they end a command as the user's mistakes do. Every output is whole or absent."""

app = typer.Typer(
    name="fmct",
    help="Head CT from raw DICOM to a pretrained 3D model: scan, preprocess, train, probe, report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
demo_app = typer.Typer(help="Make a synthetic PACS export to try the pipeline on.", no_args_is_help=True)
app.add_typer(demo_app, name="demo")
app.add_typer(shards_app, name="shards")
app.add_typer(launch_app, name="launch")
app.command()(doctor)
app.command()(recipes)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML recipe; see launch/recipes for commented ones.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values that override the recipe's."),
]
Workers = Annotated[int, typer.Option(min=1, help="Processes.")]
KeyFile = Annotated[Path, typer.Option(help="The HMAC key that identifiers are hidden with (`fmct keygen`).")]
CatalogFile = Annotated[Path, typer.Argument(help="The catalog that `fmct scan` wrote.")]


@demo_app.command("export")
def demo_export(
    out: Annotated[Path, typer.Argument(help="New folder: gets dicom/, labels.csv and truth.json.")],
    studies: Annotated[int, typer.Option(min=1, help="Synthetic patients, one study each.")] = 48,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    matrix: Annotated[int, typer.Option(min=32, help="Rows and columns of a slice.")] = 192,
    real: Annotated[Path | None, typer.Option(help="Folder of a real series to put among them.")] = None,
    workers: Workers = 2,
) -> None:
    """Write DICOM of synthetic heads, with and without bleeds, in the disorder of several scanners."""
    from preprocess.demo.export import export

    with progress("export") as update:
        summary = export(out, studies, seed, matrix, real, workers, update)
    typer.echo(f"{out}: {summary}")


@app.command()
def keygen(
    path: Annotated[Path, typer.Argument(help="File to make; keep it private and backed up.")],
) -> None:
    """Make the secret key that patient, study and series identifiers are hidden with."""
    from preprocess.privacy.deidentify import new_key

    new_key(path)
    typer.echo(f"{path}: new key, readable by you only. Without it no volume can be traced to its patient.")


@app.command()
def scan(
    export: Annotated[Path, typer.Argument(help="Folder of DICOM files, in any order and depth.")],
    catalog: Annotated[Path, typer.Option(help="Parquet file to write, one row a series.")],
    workers: Workers = 2,
) -> None:
    """Read the headers of an export into a catalog of its series."""
    from preprocess.scan.run import scan as scan_export

    with progress("scan") as update:
        summary = scan_export(export, catalog, workers, update)
    typer.echo(f"{catalog}: {summary}")


@app.command()
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
    from preprocess.config import PreprocessConfig

    settings = load(PreprocessConfig, config, overrides or [])
    with progress("select") as update:
        selection = decide(catalog, settings, explain, out, identified, update)
    selection.print()


@app.command()
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
    from preprocess import run
    from preprocess.config import PreprocessConfig

    if status:
        typer.echo(run.status(out))
        return
    settings = load(PreprocessConfig, config, overrides or [])
    if plan:
        typer.echo(f"{out}: {run.plan(catalog, out, settings)} tasks")
    elif share is not None:
        number, of = _share(share)
        with progress("preprocess") as update:
            tasks = run.run_share(catalog, out, number, of, settings, update)
        typer.echo(f"{out}: share {share} is done, tasks: {tasks}")
    elif task is not None:
        typer.echo(f"task {task}: {run.run_task(catalog, out, task, settings)}")
    elif collect:
        typer.echo(f"{out}: {run.collect(out, settings)}")
    else:
        with progress("preprocess") as update:
            typer.echo(f"{out}: {run.preprocess(catalog, out, settings, update)}")


def _share(text: str) -> tuple[int, int]:
    """I and N of I/N."""
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and int(number) < int(of)):
        raise FmctError(f"--share {text}: expected I/N, with I from 0 to N - 1")
    return int(number), int(of)


@app.command()
def labels(
    table: Annotated[
        Path, typer.Argument(help="CSV or Parquet with study_instance_uid and 0/1 label columns.")
    ],
    key_file: KeyFile,
    out: Annotated[Path, typer.Option(help="Parquet file to write, keyed as the volumes are.")],
    format: Annotated[
        Literal["plain", "rsna2019", "cq500"],
        typer.Option(help="Such a table, or stage_2_train.csv of RSNA 2019, or reads.csv of CQ500."),
    ] = "plain",
    catalog: Annotated[
        Path | None, typer.Option(help="Of these two: the catalog of the dataset's scan, ...")
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(help="... or a CSV with study_instance_uid and sop_instance_uid (CQ500: name)."),
    ] = None,
) -> None:
    """Key a table of labels as the volumes are keyed, so that the two can be joined without identifiers."""
    from preprocess.labels import key_labels

    typer.echo(f"{out}: {key_labels(table, key_file, out, format, catalog, mapping)}")


@app.command()
def trace(
    catalog: CatalogFile,
    key: Annotated[str, typer.Argument(help="A volume's or quarantined series' key.")],
    key_file: KeyFile,
) -> None:
    """Find the series behind a key: the hospital's own way back, for those who hold the HMAC key."""
    from preprocess.privacy.trace import trace as trace_key

    series = trace_key(catalog, key_file, key)
    typer.echo(f"series {series.series_uid}, study {series.study_uid}, {len(series.instances)} instances:")
    for instance in series.instances:
        typer.echo(f"  {instance.path}" + (f", member {instance.member}" if instance.member else ""))


@app.command()
def train(
    run: Annotated[
        Path, typer.Option(help="Run folder; an existing run goes on from its newest checkpoint.")
    ],
    config: ConfigFile = None,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Processes to start here; leave out under srun, or for one.")
    ] = None,
    until: Annotated[int | None, typer.Option(min=1, help="Stop at this step, with a checkpoint.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what the run would be, start nothing.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Record some steps for chrome://tracing, in RUN/profile.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Pretrain with DINO and MAE under DeepSpeed. Run it again to go on: it resumes by itself.

    Exit code 75 means that a signal came, all was saved, and the same command will go on.
    """
    from fmct_hpc.config import TrainConfig
    from fmct_hpc.train.attempts import attempts, conclude
    from fmct_hpc.train.run import preflight
    from fmct_hpc.train.run import train as train_rank

    settings = load(TrainConfig, config, overrides or [])
    if ranks is None and ("RANK" in os.environ or "SLURM_PROCID" in os.environ):
        rank = int(os.environ.get("RANK") or os.environ["SLURM_PROCID"])
        set_up_logging(rank)
        raise typer.Exit(train_rank(settings, run, until, profile))
    found = preflight(settings, run, ranks or 1)
    if dry_run:
        from fmct_hpc.train.outlook import outlook, plot_schedules
        from shards import Dataset

        typer.echo(
            outlook(settings, Dataset.open(settings.data.path), ranks or 1, found[1].step if found else 0)
        )
        plot_schedules(settings, run / "schedules.png")
        typer.echo(f"\n{run / 'schedules.png'}: learning rate and all else that changes with the step")
        return
    command = [sys.executable, "-m", "launch.cli", "train", "--run", str(run)]
    command += ["--config", str(config)] if config else []
    command += ["--until", str(until)] if until else []
    command += ["--profile"] if profile else []
    before = len(attempts(run))
    ended = run_ranks([*command, *(overrides or [])], ranks or 1)
    if ended.code and len(attempts(run)) > before:
        conclude(run, "crash", ended.what(), ended.rank, ended.code)
    raise typer.Exit(ended.code)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Run folder.")],
    second: Annotated[Path, typer.Argument(help="Another run folder.")],
) -> None:
    """Compare two runs' losses bit for bit, over the steps that both have."""
    from fmct_hpc.train.compare import compare as compare_runs

    typer.echo(f"{compare_runs(first, second)} steps in both runs, their losses identical to the last bit")


@app.command("convert-weights")
def convert_weights(
    source: Annotated[Path, typer.Argument(help="The reference's checkpoint, or an encoder.safetensors.")],
    out: Annotated[Path, typer.Option(help="Folder for the encoder; or the file for the reference.")],
    network: Annotated[
        Literal["student", "teacher"],
        typer.Option(help="Which of a DINO checkpoint's two; the reference itself loads the student."),
    ] = "student",
    heads: Annotated[
        int | None, typer.Option(min=1, help="Of the encoder, if not one for 64 channels.")
    ] = None,
    decoder_heads: Annotated[int | None, typer.Option(min=1, help="Of an MAE's decoder, if not 16.")] = None,
) -> None:
    """Turn weights of the published reference (NYUMedML/headCT_foundation) into ours, or ours into its."""
    from fmct_hpc.train.convert import convert_weights as convert

    typer.echo(convert(source, out, network, heads, decoder_heads))


@app.command("export-model")
def export_model(
    source: Annotated[Path, typer.Argument(help="An encoder.safetensors, its encoder.json beside it.")],
    out: Annotated[Path, typer.Option(help="File to write: *.pt2 (torch.export) or *.onnx.")],
) -> None:
    """Write an encoder as one file that runs without this package, and check that it computes the same."""
    from fmct_hpc.train.portable import export_model as export

    typer.echo(export(source, out))


@app.command()
def probe(
    run: Annotated[Path, typer.Argument(help="A run folder, or one of its checkpoints/step-... folders.")],
    out: Annotated[Path, typer.Option(help="Folder for results and predictions.")],
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Measure the features: logistic regression and kNN on labels, beside the same model untrained."""
    from fmct_hpc.probe.config import ProbeConfig
    from fmct_hpc.probe.run import probe as probe_run

    settings = load(ProbeConfig, config, overrides or [])
    with progress("features") as update:
        result = probe_run(run, settings, out, update)
    typer.echo(result.table())


@app.command()
def features(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="DICOM folders or archives, NIfTI files, shard datasets."),
    ],
    encoder: Annotated[Path, typer.Option(help="A run folder, a checkpoint's, or an encoder.safetensors.")],
    out: Annotated[Path, typer.Option(help="Folder for the features.")],
    batch: Annotated[int, typer.Option(min=1, help="Scans that pass the encoder at once.")] = 4,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
) -> None:
    """Run an encoder on new scans, preprocessed as those it was trained on.

    A scan that the encoder can't take (an MR, a chest, a wrong spacing) is refused with the reason, and the
    others are done; the exit code is then 2.
    """
    from fmct_hpc.inference.write import write_features

    with progress("scans") as update:
        written = write_features(paths, encoder, out, batch, device, update)
    typer.echo(f"{out}: features of {written.scans} scans of {len(paths) - len(written.refused)} paths")
    if written.refused:
        raise FmctError("\n".join(written.refused))


@app.command()
def study(
    out: Annotated[Path, typer.Option(help="Folder of the study; an existing one goes on.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML; launch/recipes/study.yaml without it.")
    ] = None,
    workers: Workers = 2,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Write the report of what is done, and do no more.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Ask on synthetic heads whether pretraining helps: DINO, MAE and both against training from scratch.

    Makes the heads, pretrains at several data sizes, probes and fine-tunes at several shares of labels, and
    writes report.md, results.parquet and figures. Run it again to go on: what is done is kept.
    """
    from launch.study.config import StudyConfig
    from launch.study.run import study as run_study

    recipe = config or Path(__file__).parent / "recipes" / "study.yaml"
    with progress("heads") as update:
        typer.echo(run_study(load(StudyConfig, recipe, overrides or []), out, update, workers, report_only))


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(help="YAML of the grid; see launch/recipes/sweep-example.yaml.")],
    out: Annotated[Path, typer.Option(help="Folder for results, predictions and comparisons.")],
    extract: Annotated[
        int | None, typer.Option(help="Only do this task of extracting features; -1 joins what they made.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only divide the grid into tasks.")] = False,
    share: Annotated[
        str | None, typer.Option(help="Only do a share of the tasks, I/N: those numbered I, I + N, I + 2N...")
    ] = None,
    task: Annotated[int | None, typer.Option(help="Only do this task (one of a Slurm array).")] = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="Only join what is done so far; the sweep may go on meanwhile.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Only say what is done.")] = False,
    overrides: Overrides = None,
) -> None:
    """Probe encoders in a grid: tasks, methods, layers, label budgets and seeds, with paired tests.

    Safe to repeat: what is done is kept, what is missing or changed is done.
    """
    if sum([extract is not None, plan, share is not None, task is not None, collect, status]) > 1:
        raise FmctError("give at most one of --extract, --plan, --share, --task, --collect and --status")
    from fmct_hpc.probe.config import SweepConfig
    from fmct_hpc.probe.sweep.run import Sweep

    grid = Sweep(load(SweepConfig, config, overrides or []), out)
    if status:
        typer.echo(grid.status())
    elif plan:
        planned = grid.plan()
        typer.echo(f"{out}: {len(planned.units)} units in {len(planned.tasks)} tasks")
    elif collect:
        typer.echo(f"{out}: {grid.collect()}")
    elif extract is not None:
        with progress("features") as update:
            grid.extract(None if extract == -1 else extract, update)
    elif share is not None:
        typer.echo(f"share {share}: {grid.run_share(*_share(share))} units computed")
    elif task is not None:
        with progress(f"task {task}") as update:
            typer.echo(f"task {task}: {grid.run_task(task, update)} units computed")
    else:
        with progress("sweep") as update:
            typer.echo(f"{out}: {grid.run(update)}")


@app.command()
def report(
    out: Annotated[Path, typer.Argument(help="HTML file to write; the model card is written beside it.")],
    run: Annotated[Path, typer.Option(help="Run folder of `fmct train`, finished or not.")],
    data: Annotated[Path | None, typer.Option(help="Output folder of `fmct preprocess`.")] = None,
    probe: Annotated[Path | None, typer.Option(help="Output folder of `fmct probe` or `fmct sweep`.")] = None,
    features: Annotated[
        Path | None, typer.Option(help="Feature store to map volumes by, if not the one in --probe.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="What `fmct labels` wrote, to colour the map by.")
    ] = None,
) -> None:
    """Write all about a run as one self-contained page (OUT.html) and as a model card (OUT.md).

    Data, rejections, curves, health, reconstructions, attention, probes, limits, provenance. What is not
    given or not there yet is left out, and the page says so.
    """
    from launch.report import report as write_report

    card = write_report(out, run, data, probe, features, labels)
    typer.echo(f"{out}: open it in any browser, it needs no network; {card}: the same as a model card")


def main() -> None:
    """Run the command line; a mistake the user can mend is one line and exit code 2."""
    try:
        _run()
    except SystemExit as ended:
        end_rank(int(ended.code or 0))
        raise


def _run() -> None:
    set_up_logging()
    try:
        app()
    except FmctError as error:
        typer.echo(f"fmct: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in DISK_FAILURES:
            raise
        why = os.strerror(error.errno or 0).lower()
        typer.echo(f"fmct: an output cannot be written ({why}): mend that and run it again", err=True)
        sys.exit(NoRoomError.exit_code if error.errno in DISK_FULL else FmctError.exit_code)


if __name__ == "__main__":
    main()
