"""The report of a run: a self-contained HTML page, and a model card in Markdown with the same contents."""

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
from launch.report.sources import Sources
from launch.report.stamp import require_same_run, run_id, stamp
from launch.report.subgroups import subgroups_section
from launch.report.training import Training
from shards.atomic import write_text
from shards.errors import FmctError
from shards.output_paths import require_file


def report(out: Path, sources: Sources) -> Path:
    """Write the page to `out` and the model card beside it; returns the model card's path.

    A main part without a source is replaced by a note; those from segmentation on are omitted silently.
    The same input gives the same bytes.

    Raises FmctError for a missing file (naming the command that writes it), for an output that cannot be
    written, and for an existing file that is not a report of the same run.
    """
    if out.suffix != ".html":
        raise FmctError(f"{out}: give a name that ends in .html; the model card is written beside it as .md")
    card = out.with_suffix(".md")
    for file in (out, card):
        require_file(file, sources.labels)
    training, own = Training(sources.run), run_id(sources.run)
    for file in (out, card):
        require_same_run(file, own)
    volumes = Data(sources.data) if sources.data else None
    probes = Probes(sources.probe) if sources.probe else None
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
            *_optional(sources),
            _relevance(sources.relevance),
            *([Segmented(sources.segment).section()] if sources.segment else []),
            _embedding(sources, training, probes, volumes),
            limits(training, volumes, probes),
            provenance(training, volumes, probes),
        ),
        stamp(own),
    )
    write_text(card, document.markdown(out.name))
    write_text(out, document.html())
    return card


def _optional(sources: Sources) -> list[Section]:
    """The sections of the optional evaluations; those without a folder are omitted."""
    listed = sources.classifiers or sources.predictions
    sections = [
        subgroups_section(sources.probe) if sources.probe else None,
        robustness_section(sources.robustness) if sources.robustness else None,
        retrieval_section(sources.retrieval) if sources.retrieval else None,
        exported_section(sources.classifiers, sources.predictions) if listed else None,
    ]
    return [section for section in sections if section is not None]


def _relevance(folder: Path | None) -> Section:
    if folder is None:
        return _left_out("Relevance maps", "no output folder of fmct relevance --masks", "--relevance")
    return figures_section(read_measures(folder))


def _embedding(sources: Sources, training: Training, probes: Probes | None, data: Data | None) -> Section:
    labels = LabelTable.read(sources.labels, binary_only=True) if sources.labels else None
    features = sources.features or (probes.features if probes else None)
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
