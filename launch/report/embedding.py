"""The report's section on the embedding: a 2D map of features, and the classes of nearest neighbours."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fmct_hpc.probe.encoders import OurEncoder
from fmct_hpc.probe.labels import LabelTable
from fmct_hpc.probe.store import FeatureStore
from fmct_hpc.train.export import load_encoder
from launch.report.document import Block, Cell, Gallery, Picture, Section, Text, cell, table
from launch.report.figures import COLOURS, DIM, svg, themed

MAX_VOLUMES = 1000
"""Maximum number of volumes on a map, those with the smallest keys (a random choice); more would overlap."""
MIN_VOLUMES = 20
"""Minimum number of volumes for a map."""
PERPLEXITY = 30.0
"""scikit-learn's default, in the range 5 to 50 of van der Maaten and Hinton 2008; lower for few volumes."""
COMPONENTS = 50
"""PCA before t-SNE to suppress noise (van der Maaten and Hinton 2008, section 4.1: 30)."""
NEIGHBOURS = 10
PROPERTIES = {"scanner": "scanner", "kernel_class": "kernel"}
"""Columns of the manifest that volumes are coloured by, with their names in the report."""
MARKERS = "os^DvPX*"
"""One per colour, for colour-blind readers."""


@dataclass(frozen=True)
class Colouring:
    """The class of each volume on the map."""

    name: str
    classes: NDArray[np.str_]
    """(N,); "" if unknown."""


def embedding(
    store: FeatureStore, exported: Path | None, volumes: pa.Table | None, labels: LabelTable | None
) -> Section:
    """A map for each property of `volumes` (the manifest) and each label, and the classes of neighbours.

    exported: the run's encoder.safetensors; features of another encoder get a warning.
    """
    chosen = np.argsort(store.keys)[:MAX_VOLUMES]
    if len(chosen) < MIN_VOLUMES:
        reason = f"Left out: {len(chosen)} volumes have features, a map needs {MIN_VOLUMES}."
        return Section("Embedding", (Text(reason),))
    vectors = store.vectors()[chosen].astype(np.float64)
    vectors -= vectors.mean(axis=0)
    places = _places(vectors)
    colourings = [*_properties(store.keys[chosen], volumes), *_labels(store.study_keys[chosen], labels)]
    if not colourings:
        colourings = [Colouring("volume", np.full(len(chosen), "volume"))]
    pictures = tuple(Picture(_map(i, one, places), f"By {one.name}") for i, one in enumerate(colourings))
    count = f"{len(chosen):,}" + (f" of {len(store):,}" if len(chosen) < len(store) else "")
    blocks: list[Block] = [
        Text(
            f"t-SNE of the features of encoder {store.info.name}, last layer, of {count} volumes: nearby "
            "points are similar, but distances between clusters, and their sizes, mean little. Clusters by "
            "scanner mean that the features encode the scanner."
        ),
        Gallery(pictures),
    ]
    if exported and OurEncoder(*load_encoder(exported)).digest != store.info.encoder_digest:
        blocks.insert(0, Text("These features are not those of the run's final encoder.", warning=True))
    rows = [row for one in colourings for row in _neighbours(vectors, store.patient_keys[chosen], one)]
    if rows:
        caption = f"Share of the {NEIGHBOURS} nearest volumes of other patients (cosine) with the same class"
        columns = ("by", "class", "volumes", "same class", "expected by chance")
        blocks.append(table(caption, columns, rows))
    return Section("Embedding", tuple(blocks))


def _places(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two coordinates for each of (N, width) vectors; deterministic."""
    from sklearn.decomposition import PCA  # here and below: a report without features needs none of it
    from sklearn.manifold import TSNE

    count, width = vectors.shape
    fewer = PCA(min(COMPONENTS, count, width), random_state=0).fit_transform(vectors)
    perplexity = min(PERPLEXITY, (count - 1) / 3)
    places: NDArray[np.float64] = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(fewer)
    return places


def _properties(keys: NDArray[np.str_], volumes: pa.Table | None) -> list[Colouring]:
    if volumes is None:
        return []
    place = {key: row for row, key in enumerate(volumes["key"].to_pylist())}
    rows = [place.get(key, -1) for key in keys.tolist()]
    colourings = []
    for column, name in PROPERTIES.items():
        values = volumes[column].to_pylist()
        classes = np.array([values[row] if row >= 0 else "" for row in rows])
        if len(set(classes) - {""}) > 1:
            colourings.append(Colouring(name, classes))
    return colourings


def _labels(study_keys: NDArray[np.str_], labels: LabelTable | None) -> list[Colouring]:
    if labels is None:
        return []
    joined = labels.join(study_keys)
    colourings = []
    for column, task in enumerate(labels.tasks):
        classes = np.full(len(study_keys), "", dtype="<U3")
        classes[joined.rows] = [
            "" if np.isnan(value) else "yes" if value else "no" for value in joined.values[:, column]
        ]
        if len(set(classes) - {""}) > 1:
            colourings.append(Colouring(task, classes))
    return colourings


def _neighbours(
    vectors: NDArray[np.float64], patients: NDArray[np.str_], one: Colouring
) -> list[tuple[Cell, ...]]:
    """One row per class: how often a volume's neighbours share it, and how often any two volumes do."""
    known = np.flatnonzero(one.classes != "")
    classes, owners = one.classes[known], patients[known]
    if len(set(classes)) < 2 or len(set(owners)) < 2 or len(known) <= NEIGHBOURS:
        return []
    from sklearn.neighbors import NearestNeighbors

    model = NearestNeighbors(metric="cosine").fit(vectors[known])
    order = model.kneighbors(vectors[known], len(known), return_distance=False)
    others = [row[owners[row] != owner][:NEIGHBOURS] for row, owner in zip(order, owners, strict=True)]
    same = np.array([(classes[near] == own).mean() for near, own in zip(others, classes, strict=True)])
    chance = np.array(
        [(classes[owners != owner] == own).mean() for owner, own in zip(owners, classes, strict=True)]
    )
    counts = Counter(classes.tolist())
    return [
        (
            cell(one.name),
            cell(name),
            cell(count),
            cell(float(same[classes == name].mean()), ".0%"),
            cell(float(chance[classes == name].mean()), ".0%"),
        )
        for name, count in counts.most_common()
    ]


def _map(number: int, one: Colouring, places: NDArray[np.float64]) -> Markup:
    counts = Counter(one.classes[one.classes != ""].tolist())
    shown = [name for name, _ in counts.most_common(len(COLOURS))]
    rest = ~np.isin(one.classes, shown)
    size = float(np.clip(120 / np.sqrt(len(places)), 3, 7))
    with themed():
        figure = Figure(figsize=(4.6, 4.4), layout="constrained")
        axes = figure.subplots()
        styles = dict(zip(sorted(shown), zip(COLOURS, MARKERS, strict=False), strict=False))
        for name in shown:  # the rarest are drawn last, on top
            colour, marker = styles[name]
            style: Any = {"color": colour, "markersize": size, "markeredgewidth": 0, "alpha": 0.8}
            axes.plot(*places[one.classes == name].T, marker, label=name, **style)
        if rest.any():
            axes.plot(*places[rest].T, "+", color=DIM, markersize=size, label="other or unknown", zorder=1)
        axes.grid(visible=False)
        axes.spines[:].set_visible(True)
        axes.set(xticks=[], yticks=[])
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        alt = f"Map of {len(places)} volumes by {one.name}: " + ", ".join(
            f"{n} {c}" for c, n in counts.items()
        )
        return svg(figure, f"map{number}", alt)
