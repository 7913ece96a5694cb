"""The report of a run: a self-contained HTML page, and a model card in Markdown with the same contents."""

from collections.abc import Sequence
from pathlib import Path

from fmct_hpc.probe.labels import LabelTable
from fmct_hpc.probe.store import FeatureStore
from launch.report.card import limits, use
from launch.report.data import Data
from launch.report.dense import Segmented
from launch.report.document import Cell, Document, Facts, Section, Text, cell, facts
from launch.report.embedding import embedding
from launch.report.exported import exported_section
from launch.report.probe import Probes
from launch.report.provenance import provenance
from launch.report.relevance_table import figures_section, read_measures
from launch.report.retrieval import retrieval_section
from launch.report.robustness import robustness_section
from launch.report.stamp import require_same_run, run_id, stamp
from launch.report.subgroups import subgroups_section
from launch.report.training import Training
from shards.atomic import write_text
from shards.errors import FmctError
from shards.output_paths import require_file


def report(
    out: Path,
    run: Path,
    data: Path | None = None,
    probe: Path | None = None,
    features: Path | None = None,
    labels: Path | None = None,
    relevance: Path | None = None,
    segment: Path | None = None,
    retrieval: Path | None = None,
    robustness: Path | None = None,
    classifiers: Sequence[Path] = (),
    predictions: Path | None = None,
) -> Path:
    """Write the page to `out` and the model card beside it; returns the model card's path.

    run, data: output folders of `fmct train` and `fmct preprocess`; probe: that of `fmct probe` or `fmct
    sweep`; features: a feature store, if not the one in `probe`; labels: the table of `fmct labels`, to
    colour the map of features; relevance, segment, retrieval, robustness, predictions: output folders of
    `fmct relevance --masks`, `fmct segment` and so on (predictions: of `fmct predict`); classifiers: folders
    of `fmct export-classifier`. The groups of `fmct subgroups` in `probe` are included. A main part without a
    folder is replaced by a note; those from segmentation on are omitted silently.
    The same input gives the same bytes.

    Raises FmctError for a missing file (naming the command that writes it), for an output that cannot be
    written, and for an existing file that is not a report of the same run.
    """
    if out.suffix != ".html":
        raise FmctError(f"{out}: give a name that ends in .html; the model card is written beside it as .md")
    card = out.with_suffix(".md")
    for file in (out, card):
        require_file(file, labels)
    training, own = Training(run), run_id(run)
    for file in (out, card):
        require_same_run(file, own)
    volumes = Data(data) if data else None
    probes = Probes(probe) if probe else None
    table = LabelTable.read(labels, binary_only=True) if labels else None
    features = features or (probes.features if probes else None)
    document = Document(
        "Report of a training run",
        _summary(training, volumes, probes),
        (
            *use(),
            volumes.section()
            if volumes
            else _left_out("Data", "no output folder of fmct preprocess", "--data"),
            *training.sections(),
            probes.section()
            if probes
            else _left_out("Evaluation", "no output folder of fmct probe", "--probe"),
            *_optional(probe, retrieval, robustness, classifiers, predictions),
            figures_section(read_measures(relevance))
            if relevance
            else _left_out("Relevance maps", "no output folder of fmct relevance --masks", "--relevance"),
            *([Segmented(segment).section()] if segment else []),
            _embedding(training, features, table, volumes),
            limits(training, volumes, probes),
            provenance(training, volumes, probes),
        ),
        stamp(own),
    )
    write_text(card, document.markdown(out.name))
    write_text(out, document.html())
    return card


def _optional(
    probe: Path | None,
    retrieval: Path | None,
    robustness: Path | None,
    classifiers: Sequence[Path],
    predictions: Path | None,
) -> list[Section]:
    """The sections of the optional evaluations; those without a folder are omitted."""
    sections = [
        subgroups_section(probe) if probe else None,
        robustness_section(robustness) if robustness else None,
        retrieval_section(retrieval) if retrieval else None,
        exported_section(classifiers, predictions) if classifiers or predictions else None,
    ]
    return [section for section in sections if section is not None]


def _embedding(
    training: Training, features: Path | None, labels: LabelTable | None, data: Data | None
) -> Section:
    if features is None:
        return _left_out("Embedding", "no feature store", "--features")
    volumes = data.volumes if data else None
    return embedding(FeatureStore.open(features), training.exported, volumes, labels)


def _left_out(title: str, what: str, option: str) -> Section:
    return Section(title, (Text(f"Left out: {what} was given ({option})."),))


def _summary(training: Training, data: Data | None, probes: Probes | None) -> Facts:
    values: dict[str, Cell | str | int | None] = {
        "steps": cell(f"{training.steps:,} of {training.config.run.steps:,}"),
        "volumes": data.summary.volumes if data else None,
        "patients": data.summary.patients if data else None,
        **(probes.headline() if probes else {}),
        "signs of collapse": len(training.alarms),
        "signs of not learning": len(training.unlearned),
        "encoder": training.encoder_digest[:12] if training.encoder_digest else None,
    }
    return facts("Summary", values)
