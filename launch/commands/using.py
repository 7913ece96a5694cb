"""The commands that apply a model to new scans: features, predictions, relevance maps, similar volumes."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Protocol

import typer

from launch.commands.arguments import (
    Batch,
    ClassifierFolder,
    Collect,
    Device,
    Encoder,
    KeyFile,
    Overrides,
    Paths,
    Predictions,
    ShareOption,
    at_most_one,
)
from launch.commands.console import progress
from launch.screen import echo
from shards.errors import FmctError
from shards.share import WHOLE, Share

Progress = Callable[[int, int], None]
REFUSALS_SHOWN = 20
"""Maximum number of rejected paths that are printed; the table has all."""


def features(
    paths: Paths,
    encoder: Encoder,
    out: Annotated[Path, typer.Option(help="Output folder for the features.")],
    batch: Batch = 4,
    device: Device = "cpu",
    key_file: KeyFile = None,
    private_map: Annotated[
        Path | None,
        typer.Option(help="Parquet file to write with the path of each key, readable only by you."),
    ] = None,
    share: ShareOption = None,
    collect: Collect = False,
) -> None:
    """Extract features of new scans, with the preprocessing of the encoder's training data.

    A scan that is not suitable for the encoder (an MR, a chest, a wrong spacing) is rejected with a reason;
    the others are processed, and the exit code is 2 (with --collect 0). Safe to repeat: finished parts are
    kept.
    """
    at_most_one(share=share, collect=collect)
    from fmct_hpc.inference.write import FeatureTable

    _require_key(key_file)
    table = FeatureTable(paths, encoder, out, batch, device, key_file, private_map)
    made = _run(table.run, share, collect)
    if share is not None:
        echo(f"share {share}: {made} parts; when all shares are done, run the same command with --collect")
        return
    written = table.collect()
    echo(f"{out}: features of {written.scans} scans of {written.paths} paths{_partial(written)}")
    if written.flags:
        flags = ", ".join(f"{count} {flag}" for flag, count in written.flags.most_common())
        echo(f"flagged scans: {flags}")
    if written.refused:
        _report("\n".join(written.refused[: REFUSALS_SHOWN if collect else None]), collect)


def export_classifier(
    config: Annotated[Path, typer.Argument(help="YAML configuration of a sweep.")],
    out: Annotated[Path, typer.Option(help="Output folder for the classifier.")],
    encoder: Annotated[
        str | None, typer.Option(help="Name of the encoder, if the sweep has several.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Name of the method, if the sweep has several.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Label column; all by default. Repeatable.")] = None,
    overrides: Overrides = None,
) -> None:
    """Fit the classifiers of a sweep and save them with their encoder for `fmct predict`.

    They are fitted as in the sweep; calibration and thresholds are from its validation volumes.
    """
    from fmct_hpc.classifier.fit import fit
    from fmct_hpc.classifier.folder import write_classifier
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
    classifier: ClassifierFolder,
    out: Predictions,
    share: ShareOption = None,
    collect: Collect = False,
    batch: Batch = 4,
    device: Device = "cpu",
    key_file: KeyFile = None,
) -> None:
    """Predict the probabilities of findings in new scans with a saved classifier.

    Paths without a prediction have a reason in the table; the exit code is then 2 (with --collect 0). Safe
    to repeat: finished parts are kept.
    """
    at_most_one(share=share, collect=collect)
    from fmct_hpc.classifier.table import Predictions as Table

    _require_key(key_file)
    predictions = Table(paths, classifier, out, batch, device, key_file)
    _run(predictions.run, share, collect)
    if share is not None:
        return
    summary = predictions.collect()
    echo(f"{out}: predictions for {summary.scans} {summary.what}{_partial(summary)}")
    if summary.refused:
        first = "\n".join(summary.refused[:REFUSALS_SHOWN])
        count = len(summary.refused)
        _report(f"{count} paths have no prediction; reasons are in the table:\n{first}", collect)


def similar(
    exam: Annotated[Path, typer.Argument(help="A DICOM folder or archive, a NIfTI file, a shard dataset.")],
    encoder: Encoder,
    among: Annotated[Path, typer.Option(help="Feature store of a sweep with the same encoder.")],
    data: Annotated[Path, typer.Option(help="Shard dataset of the feature store.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
    labels: Annotated[Path | None, typer.Option(help="Output of `fmct labels`, to show labels.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of volumes to show per scan.")] = 5,
) -> None:
    """Find the stored volumes most similar to an exam, and show them on an HTML page."""
    from launch.report.similar import similar as search

    for key, nearest in search(exam, encoder, among, data, out, labels, count):
        shown = ", ".join(f"{one.key[:8]} ({one.similarity:.3f})" for one in nearest)
        echo(f"{key[:8]}: {shown}")
    echo(f"{out}: opens in any browser, without a network")


def relevance(
    paths: Paths,
    out: Annotated[Path, typer.Option(help="Output folder for maps, table and HTML page.")],
    classifier: Annotated[
        Path | None, typer.Option(help="Classifier folder written by `fmct export-classifier`.")
    ] = None,
    encoder: Annotated[
        Path | None, typer.Option(help="Instead of a classifier: attention rollout of its CLS token.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="attention-gradient, integrated-gradients, gradient-input or rollout; all by default. "
            "Repeatable."
        ),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Label column; all by default. Repeatable.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Table of key, task and mask files, to evaluate the maps with.")
    ] = None,
    beside: Annotated[
        Path | None,
        typer.Option(help="Classifier of the same labels to compare with, for example an untrained one."),
    ] = None,
    tolerance_mm: Annotated[
        float, typer.Option(min=0, help="Maximum distance in mm of a map's highest patch from the mask.")
    ] = 15.0,
    share: ShareOption = None,
    collect: Collect = False,
    device: Device = "cpu",
    key_file: KeyFile = None,
) -> None:
    """Map the regions of new scans that determine a classifier's score, as NIfTI files and an HTML page.

    A path that is not suitable for the encoder is rejected with a reason; the others are processed, and the
    exit code is 2 (with --collect 0). Safe to repeat: finished maps are kept.
    """
    at_most_one(share=share, collect=collect)
    if beside is not None and masks is None:
        raise FmctError("--beside needs --masks: it compares evaluations")
    from fmct_hpc.relevance.evaluate import Evaluation
    from fmct_hpc.relevance.maps import open_explainer
    from launch.report.masks import Masks
    from launch.report.relevance import Relevance
    from launch.report.relevance_table import printed

    _require_key(key_file)
    given = Masks.read(masks) if masks else None
    evaluation = Evaluation(given.truth, tolerance_mm, given.digest) if given else None
    explainer = open_explainer(classifier, encoder, method or (), task or (), device)
    tasks, methods = list(explainer.readings), explainer.methods
    other = open_explainer(beside, None, methods, tasks, device) if beside else None
    maps = Relevance(paths, explainer, out, evaluation, other, key_file)
    made = _run(maps.run, share, collect)
    if share is not None:
        echo(f"share {share}: {made} parts mapped; when all shares are, run the same command with --collect")
        return
    written = maps.collect()
    partial = _partial(written)
    echo(f"{out}: {written.maps} maps of {written.scans} scans{partial}; {out}/relevance.html shows them")
    if written.measures is not None:
        echo(printed(written.measures))
    if written.refused:
        _report("\n".join(written.refused[:REFUSALS_SHOWN]), collect)


class _Parts(Protocol):
    """How many parts of a table are done, and how many there are."""

    @property
    def done(self) -> int: ...

    @property
    def parts(self) -> int: ...


def _run(run: Callable[[Share, Progress], int], share: str | None, collect: bool) -> int:
    """Compute missing parts, all or those of a share, and return their number; none with --collect."""
    if collect:
        return 0
    with progress("parts") as update:
        return run(Share.parse(share) if share else WHOLE, update)


def _partial(summary: _Parts) -> str:
    return "" if summary.done == summary.parts else f" ({summary.done} of {summary.parts} parts)"


def _report(refused: str, collect: bool) -> None:
    """Raise FmctError for paths that were rejected; with --collect only print them."""
    if not collect:
        raise FmctError(refused)
    echo(refused, err=True)


def _require_key(key_file: Path | None) -> None:
    """Raise FmctError for an invalid key file once, not for each path."""
    from preprocess.privacy.deidentify import Pseudonymizer

    if key_file is not None:
        Pseudonymizer(key_file)
