"""The commands for training, and for converting and exporting weights."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from launch.commands.arguments import ConfigFile, Overrides, recorded_configuration
from launch.commands.console import set_up_logging
from launch.program import FMCT
from launch.screen import echo
from shards.errors import FmctError
from shards.job import RunningJob


def train(
    run: Annotated[
        Path, typer.Option(help="Run folder; an existing run is resumed from its newest checkpoint.")
    ],
    config: ConfigFile = None,
    ranks: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of processes to start; omit in a job that starts every rank. Default: one."
        ),
    ] = None,
    until: Annotated[int | None, typer.Option(min=1, help="Stop after this step, with a checkpoint.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run all checks and describe the run without starting it.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Record some steps for chrome://tracing in RUN/profile.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Pretrain an encoder with DINO and MAE under DeepSpeed, or resume a run.

    Without --config an existing run is resumed with its recorded configuration.

    Exit code 75 means that the run was stopped by a signal and has saved; run the command again to resume.
    """
    from fmct_hpc.config import TrainConfig
    from fmct_hpc.train.attempts import attempts, conclude
    from fmct_hpc.train.reported import reported_once
    from fmct_hpc.train.run import preflight
    from fmct_hpc.train.run import train as train_rank
    from launch.config import load
    from launch.ranks import run_ranks

    config = config or recorded_configuration(run)
    if config is None and not overrides:
        raise FmctError(f"{run}: no run to resume; give --config to start one")
    of_job = RunningJob.current().rank
    rank = int(os.environ.get("RANK") or of_job or 0)
    with reported_once(rank == 0 or ranks is not None):
        settings = load(TrainConfig, config, overrides or [])
    if ranks is None and ("RANK" in os.environ or of_job is not None):
        set_up_logging(rank)
        raise typer.Exit(train_rank(settings, run, until, profile))
    resume_point = preflight(settings, run, ranks or 1)
    if dry_run:
        from fmct_hpc.train.dry_run import outlook, plot_schedules
        from fmct_hpc.train.earlier_defaults import with_earlier_defaults
        from fmct_hpc.train.length import with_steps
        from shards import Dataset

        settings = with_steps(with_earlier_defaults(settings, run))
        echo(outlook(settings, Dataset.open(settings.data.path, clipped=True), ranks or 1, resume_point.step))
        plot_schedules(settings, run / "schedules.png")
        echo(f"\n{run / 'schedules.png'}: learning rate and all other schedules")
        return
    command = [*FMCT, "train", "--run", str(run)]
    command += ["--config", str(config)] if config else []
    command += ["--until", str(until)] if until else []
    command += ["--profile"] if profile else []
    before = len(attempts(run))
    ended = run_ranks([*command, *(overrides or [])], ranks or 1)
    if ended.code and len(attempts(run)) > before:
        conclude(run, "crash", ended.describe(), ended.rank, ended.code)
    raise typer.Exit(ended.code)


def compare(
    first: Annotated[Path, typer.Argument(help="A run folder.")],
    second: Annotated[Path, typer.Argument(help="Another run folder.")],
) -> None:
    """Compare the losses of two runs bit for bit, over their common steps."""
    from fmct_hpc.train.compare import compare as compare_runs

    echo(f"{compare_runs(first, second)} steps in both runs, with bit-identical losses")


def convert_weights(
    source: Annotated[Path, typer.Argument(help="A checkpoint of the reference, or an encoder.safetensors.")],
    out: Annotated[
        Path, typer.Option(help="Folder for our encoder, or file for the checkpoint of the reference.")
    ],
    network: Annotated[
        Literal["student", "teacher"],
        typer.Option(help="Network of a DINO checkpoint to convert; the reference loads the student."),
    ] = "student",
    heads: Annotated[
        int | None,
        typer.Option(min=1, help="Attention heads of the encoder, if not one per 64 channels."),
    ] = None,
    decoder_heads: Annotated[
        int | None, typer.Option(min=1, help="Attention heads of an MAE decoder, if not 16.")
    ] = None,
) -> None:
    """Convert weights from or to the format of the reference (NYUMedML/headCT_foundation)."""
    from fmct_hpc.train.convert import convert_weights as convert

    echo(convert(source, out, network, heads, decoder_heads))


def export_model(
    source: Annotated[
        Path, typer.Argument(help="A run folder, or an encoder.safetensors with its JSON file.")
    ],
    out: Annotated[Path | None, typer.Option(help="File to write: *.pt2 (torch.export) or *.onnx.")] = None,
    hub: Annotated[
        Path | None,
        typer.Option(help="Folder to write, for transformers or for PyTorch without this package."),
    ] = None,
    monai: Annotated[
        Path | None, typer.Option(help="Folder to write, as a backbone with feature maps for MONAI networks.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="With --hub: licence of the weights (SPDX identifier).")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="With --hub: the training dataset, for the counts in the model card.")
    ] = None,
) -> None:
    """Export an encoder to run without this package, and verify that the outputs are the same."""
    if sum(place is not None for place in (out, hub, monai)) != 1 or (hub is None and (licence or data)):
        raise FmctError("give one of --out FILE, --monai FOLDER, and --hub FOLDER with --licence NAME")
    encoder = source / "encoder.safetensors" if source.is_dir() else source
    if hub is not None:
        from fmct_hpc.hub.write import export_hub

        echo(export_hub(source, hub, licence, data))
    elif monai is not None:
        from fmct_hpc.monai.export import export_monai

        echo(export_monai(encoder, monai))
    elif out is not None:
        from fmct_hpc.train.portable import export_model as export

        echo(export(encoder, out))
