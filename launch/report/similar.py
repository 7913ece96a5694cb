"""`fmct similar`: the stored volumes most similar to an exam, as a page of pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from fmct_hpc.inference.features import of_scans
from fmct_hpc.inference.readers import read_scans
from fmct_hpc.probe.encoders import OurEncoder, load_weights
from fmct_hpc.probe.labels import LabelTable
from fmct_hpc.probe.store import FeatureStore
from fmct_hpc.retrieval.search import Neighbour, neighbours
from launch.report.document import Document, Gallery, Picture, Section, Text, facts
from preprocess.qc.report import png
from preprocess.qc.thumbnail import thumbnail
from shards import Dataset
from shards.atomic import write_text
from shards.errors import FmctError
from shards.output_paths import require_file

KEY_DIGITS = 8


def similar(
    exam: Path,
    encoder: Path,
    among: Path,
    data: Path,
    out: Path,
    labels: Path | None = None,
    count: int = 5,
) -> list[tuple[str, list[Neighbour]]]:
    """Write the page `out`, and return each scan's key with its nearest volumes.

    exam: an input of `fmct features`. among: a feature store of the dataset `data` by the same encoder.
    labels: the output of `fmct labels`, shown under each volume. The page contains pictures and keys, but no
    paths or names.

    Raises FmctError if the store is of another encoder or dataset, and as `read_scans` does.
    """
    if out.suffix != ".html":
        raise FmctError(f"{out}: give a name that ends in .html")
    require_file(out, labels)
    model, info = load_weights(encoder)
    store, dataset = FeatureStore.open(among), Dataset.open(data)
    if store.info.encoder_digest != OurEncoder(model, info).digest:
        raise FmctError(f"{among}: features of another encoder than {encoder}; extract them with this one")
    if store.info.dataset_digest != dataset.info.digest:
        raise FmctError(f"{among}: features of another dataset than {data}")
    table = LabelTable.read(labels, binary_only=True) if labels else None
    scans, features = [], []
    for scan in read_scans(exam, info):
        (encoded,) = of_scans([scan], model, info)
        features.append(np.concatenate([encoded.cls, encoded.mean]))
        scans.append((scan.key, thumbnail(scan.voxels, scan.spacing_mm)))
    nearest = neighbours(store, np.stack(features), count)
    results = [(key, own) for (key, _), own in zip(scans, nearest, strict=True)]
    sections = [
        _section(key, shown, own, dataset, table) for (key, shown), own in zip(scans, nearest, strict=True)
    ]
    summary = facts(
        "Search", {"scans": len(results), "searched volumes": len(store), "encoder step": info.step}
    )
    write_text(out, Document("Similar volumes", summary, tuple(sections)).html())
    return results


def _section(
    key: str, shown: np.ndarray, nearest: Sequence[Neighbour], dataset: Dataset, table: LabelTable | None
) -> Section:
    """key, shown: the scan's key and thumbnail."""
    pictures = [_picture(shown, "the exam")]
    for neighbour in nearest:
        number = dataset.position(neighbour.key)
        volume = thumbnail(dataset.read(number), dataset.info.spacing_mm)
        same = dataset.record(number).source_digest.startswith(key) or neighbour.key == key
        caption = f"{neighbour.key[:KEY_DIGITS]}, cosine {neighbour.similarity:.3f}"
        caption += ", the same scan" if same else ""
        pictures.append(_picture(volume, caption + _labels(neighbour, table)))
    note = "Central axial, coronal and sagittal slices, in the brain window; nearest first."
    return Section(f"Scan {key[:KEY_DIGITS]}", (Text(note), Gallery(tuple(pictures), wide=True)))


def _labels(neighbour: Neighbour, table: LabelTable | None) -> str:
    """The positive labels of the neighbour's study."""
    if table is None:
        return ""
    known = {
        name: value for name, value in (table.of_study(neighbour.study_key) or {}).items() if value in (0, 1)
    }
    positive = [name for name, value in known.items() if value == 1]
    return f": {', '.join(positive) or ('no positive label' if known else 'labels unknown')}"


def _picture(pixels: np.ndarray, caption: str) -> Picture:
    return Picture(Markup('<img src="{}" alt="{}">').format(png(pixels), caption), caption)
