"""The commands that use a model on new scans: features, predictions, their reasons, similar volumes."""

from pathlib import Path
from typing import Annotated

import typer

from launch.commands.arguments import (
    Batch,
    Device,
    Encoder,
    Kept,
    KeyFile,
    Overrides,
    Paths,
    Predictions,
    numbers_of_share,
)
from launch.commands.console import progress
from launch.screen import echo
from shards.errors import FmctError

REFUSALS_SHOWN = 20
"""Of a cohort's paths; the table has all."""


def features(
    paths: Paths,
    encoder: Encoder,
    out: Annotated[Path, typer.Option(help="Folder for the features.")],
    batch: Batch = 4,
    device: Device = "cpu",
    key_file: KeyFile = None,
    private_map: Annotated[
        Path | None,
        typer.Option(help="Parquet to write that says which path each key is of; readable by you alone."),
    ] = None,
) -> None:
    """Run an encoder on new scans, preprocessed as those it was trained on.

    A scan that the encoder can't take (an MR, a chest, a wrong spacing) is refused with the reason, and the
    others are done; the exit code is then 2.
    """
    from fmct_hpc.inference.write import write_features

    _require_key(key_file)
    with progress("scans") as update:
        written = write_features(paths, encoder, out, batch, device, update, key_file, private_map)
    echo(f"{out}: features of {written.scans} scans of {written.paths} paths")
    if written.flags:
        found = ", ".join(f"{count} {flag}" for flag, count in written.flags.most_common())
        echo(f"flagged scans: {found}")
    if written.refused:
        raise FmctError("\n".join(written.refused))


def export_classifier(
    config: Annotated[Path, typer.Argument(help="YAML of a sweep.")],
    out: Annotated[Path, typer.Option(help="Folder for the classifier.")],
    encoder: Annotated[str | None, typer.Option(help="Its name, of a sweep with several.")] = None,
    method: Annotated[str | None, typer.Option(help="Its name, of a sweep with several.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="A label column; all of them by default.")] = None,
    overrides: Overrides = None,
) -> None:
    """Keep classifiers of a sweep, with their encoder, as a folder for `fmct predict`.

    Fitted are the very problems of the sweep; calibration and thresholds are of its validation volumes.
    """
    from fmct_hpc.classifier.fit import fit
    from fmct_hpc.classifier.kept import write_classifier
    from fmct_hpc.probe.config import SweepConfig
    from launch.config import load

    sweep = load(SweepConfig, config, overrides or [])
    with progress("features") as update:
        fitted = fit(sweep, encoder, method, task, update)
    record = write_classifier(fitted, out)
    names = ", ".join(one.task for one in record.tasks)
    echo(f"{out}: {record.method} on {record.encoder} for {names}")
    if fitted.refused:
        raise FmctError("\n".join(fitted.refused))


def predict(
    paths: Paths,
    classifier: Kept,
    out: Predictions,
    share: Annotated[
        str | None, typer.Option(help="Only do a share of the parts, I/N (one of a Slurm array).")
    ] = None,
    collect: Annotated[bool, typer.Option("--collect", help="Only join what is done so far.")] = False,
    batch: Batch = 4,
    device: Device = "cpu",
    key_file: KeyFile = None,
) -> None:
    """Write a kept classifier's probabilities for new scans, or the reason why a path has none.

    Safe to repeat: what is done is kept. Where a path was refused, the exit code is 2, of --collect 0.
    """
    if share is not None and collect:
        raise FmctError("give at most one of --share and --collect")
    from fmct_hpc.classifier.table import Predictions as Table

    _require_key(key_file)
    predictions = Table(paths, classifier, out, batch, device, key_file)
    if not collect:
        with progress("parts") as update:
            predictions.run((0, 1) if share is None else numbers_of_share(share), update)
    if share is None:
        summary = predictions.collect()
        partial = "" if summary.done == summary.parts else f" ({summary.done} of {summary.parts} parts)"
        echo(f"{out}: predictions for {summary.scans} scans{partial}")
        if summary.refused:
            first = "\n".join(summary.refused[:REFUSALS_SHOWN])
            refused = f"{len(summary.refused)} paths have none; the table says why:\n{first}"
            if not collect:
                raise FmctError(refused)
            echo(refused, err=True)


def similar(
    exam: Annotated[Path, typer.Argument(help="A DICOM folder or archive, a NIfTI file, a shard dataset.")],
    encoder: Encoder,
    among: Annotated[Path, typer.Option(help="A feature store of a sweep, by the same encoder.")],
    data: Annotated[Path, typer.Option(help="The shard dataset whose features they are.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
    labels: Annotated[Path | None, typer.Option(help="What `fmct labels` wrote, to be shown.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Volumes to show for each scan.")] = 5,
) -> None:
    """Show the stored volumes that resemble an exam most, as a page of pictures."""
    from launch.report.similar import similar as search

    for key, nearest in search(exam, encoder, among, data, out, labels, count):
        shown = ", ".join(f"{one.key[:8]} ({one.similarity:.3f})" for one in nearest)
        echo(f"{key[:8]}: {shown}")
    echo(f"{out}: open it in any browser, it needs no network")


def relevance(
    paths: Paths,
    out: Annotated[Path, typer.Option(help="Folder for maps, table and page.")],
    classifier: Annotated[
        Path | None, typer.Option(help="A folder that `fmct export-classifier` wrote.")
    ] = None,
    encoder: Annotated[
        Path | None, typer.Option(help="In place of a classifier: what its CLS token looks at, by rollout.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="attention-gradient, integrated-gradients, gradient-input or rollout; all by default."
        ),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="A label column; all by default.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Table of key, task and mask files, to measure the maps by.")
    ] = None,
    beside: Annotated[
        Path | None,
        typer.Option(help="Another classifier of these labels, measured beside: an untrained one."),
    ] = None,
    tolerance_mm: Annotated[
        float, typer.Option(min=0, help="How far a map's greatest patch may lie from the mask.")
    ] = 15.0,
    device: Device = "cpu",
    key_file: KeyFile = None,
) -> None:
    """Map where in new scans a kept classifier's score comes from: NIfTI in the patient's frame, and a page.

    A path that the encoder can't take is refused with the reason, and the others are done; the exit code is
    then 2.
    """
    if beside is not None and masks is None:
        raise FmctError("--beside: is for measuring; give --masks too")
    from fmct_hpc.relevance.evaluate import Evaluation
    from fmct_hpc.relevance.maps import open_explainer
    from launch.report.masks import Masks
    from launch.report.relevance import relevance as write
    from launch.report.relevance_table import printed

    _require_key(key_file)
    evaluation = Evaluation(Masks.read(masks).truth, tolerance_mm) if masks else None
    explainer = open_explainer(classifier, encoder, method or (), task or (), device)
    tasks, methods = list(explainer.readings), explainer.methods
    other = open_explainer(beside, None, methods, tasks, device) if beside else None
    with progress("paths") as update:
        written = write(paths, explainer, out, evaluation, other, key_file, update)
    echo(f"{out}: {written.maps} maps of {written.scans} scans; {out}/relevance.html shows them")
    if written.measures is not None:
        echo(printed(written.measures))
    if written.refused:
        raise FmctError("\n".join(written.refused[:REFUSALS_SHOWN]))


def _require_key(key_file: Path | None) -> None:
    """Refuse a wrong key file once, and not for each path."""
    from preprocess.privacy.deidentify import Pseudonymizer

    if key_file is not None:
        Pseudonymizer(key_file)
