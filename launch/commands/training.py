"""The commands of training, and of what becomes of its weights."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from launch.commands.arguments import ConfigFile, Overrides, recorded_configuration
from launch.commands.console import set_up_logging
from launch.program import FMCT
from launch.screen import echo
from shards.errors import FmctError


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

    Without --config an existing run keeps the configuration that it recorded.

    Exit code 75 means that a signal came, all was saved, and the same command will go on.
    """
    from fmct_hpc.config import TrainConfig
    from fmct_hpc.train.attempts import attempts, conclude
    from fmct_hpc.train.run import preflight
    from fmct_hpc.train.run import train as train_rank
    from launch.config import load
    from launch.ranks import run_ranks

    config = config or recorded_configuration(run)
    settings = load(TrainConfig, config, overrides or [])
    if ranks is None and ("RANK" in os.environ or "SLURM_PROCID" in os.environ):
        rank = int(os.environ.get("RANK") or os.environ["SLURM_PROCID"])
        set_up_logging(rank)
        raise typer.Exit(train_rank(settings, run, until, profile))
    found = preflight(settings, run, ranks or 1)
    if dry_run:
        from fmct_hpc.train.begun import as_begun
        from fmct_hpc.train.length import with_steps
        from fmct_hpc.train.outlook import outlook, plot_schedules
        from shards import Dataset

        settings = with_steps(as_begun(settings, run))
        echo(outlook(settings, Dataset.open(settings.data.path, clipped=True), ranks or 1, found.step))
        plot_schedules(settings, run / "schedules.png")
        echo(f"\n{run / 'schedules.png'}: learning rate and all else that changes with the step")
        return
    command = [*FMCT, "train", "--run", str(run)]
    command += ["--config", str(config)] if config else []
    command += ["--until", str(until)] if until else []
    command += ["--profile"] if profile else []
    before = len(attempts(run))
    ended = run_ranks([*command, *(overrides or [])], ranks or 1)
    if ended.code and len(attempts(run)) > before:
        conclude(run, "crash", ended.what(), ended.rank, ended.code)
    raise typer.Exit(ended.code)


def compare(
    first: Annotated[Path, typer.Argument(help="Run folder.")],
    second: Annotated[Path, typer.Argument(help="Another run folder.")],
) -> None:
    """Compare two runs' losses bit for bit, over the steps that both have."""
    from fmct_hpc.train.compare import compare as compare_runs

    echo(f"{compare_runs(first, second)} steps in both runs, their losses identical to the last bit")


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

    echo(convert(source, out, network, heads, decoder_heads))


def export_model(
    source: Annotated[
        Path, typer.Argument(help="A run folder, or an encoder.safetensors with its JSON file.")
    ],
    out: Annotated[Path | None, typer.Option(help="File to write: *.pt2 (torch.export) or *.onnx.")] = None,
    hub: Annotated[
        Path | None, typer.Option(help="Folder to write: for transformers, or PyTorch without this package.")
    ] = None,
    monai: Annotated[
        Path | None, typer.Option(help="Folder to write: feature maps as a backbone for MONAI's networks.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="For --hub: of the weights, as you name it (SPDX identifier).")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="For --hub: the training dataset, counted for the model card.")
    ] = None,
) -> None:
    """Write an encoder so that it runs without this package, and check that it computes the same."""
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
