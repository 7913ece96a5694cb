"""The report's part about where volumes lie to one another: a map of features, and neighbours."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

from fmct_hpc.probe.encoders import OurEncoder
from fmct_hpc.probe.labels import LabelTable
from fmct_hpc.probe.store import FeatureStore
from fmct_hpc.train.export import load_encoder
from launch.report.document import Block, Gallery, Picture, Section, Text, cell, table
from launch.report.figures import COLOURS, DIM, svg, themed

MOST = 1000
"""Volumes on a map, those of the least keys (a random choice): more would hide one another."""
LEAST = 20
"""Fewer make no map."""
PERPLEXITY = 30.0
"""scikit-learn's default, of van der Maaten and Hinton 2008's range of 5 to 50; less for few volumes."""
COMPONENTS = 50
"""PCA before t-SNE to suppress noise (van der Maaten and Hinton 2008, section 4.1: 30)."""
NEIGHBOURS = 10
PROPERTIES = {"scanner": "scanner", "kernel_class": "kernel"}
"""Columns of the manifest that volumes are coloured by, and what they are called."""
MARKERS = "os^DvPX*"
"""One for each colour, for those who do not see colours."""


@dataclass(frozen=True)
class Colouring:
    """A class for each volume of the map."""

    name: str
    classes: NDArray[np.str_]
    """(N,); "" where it is not known."""


def embedding(
    store: FeatureStore, exported: Path | None, volumes: pa.Table | None, labels: LabelTable | None
) -> Section:
    """A map for each property of `volumes` (the manifest) and each label, and how alike neighbours are.

    exported: the run's encoder.safetensors; features of any other are called so.
    """
    chosen = np.argsort(store.keys)[:MOST]
    if len(chosen) < LEAST:
        few = f"Left out: {len(chosen)} volumes have features, and {LEAST} make a map."
        return Section("Embedding", (Text(few),))
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
            f"Features of encoder {store.info.name}, last layer, of {count} volumes, placed by t-SNE: near "
            "points are alike, but distances between groups, and their sizes, mean little. A map that falls "
            "apart by scanner shows features of the scanner."
        ),
        Gallery(pictures),
    ]
    if exported and OurEncoder(*load_encoder(exported)).digest != store.info.encoder_digest:
        blocks.insert(0, Text("These are not the features of the run's encoder at its end.", warning=True))
    rows = [row for one in colourings for row in _alike(vectors, store.patient_keys[chosen], one)]
    if rows:
        of_whom = f"the {NEIGHBOURS} nearest volumes of other patients by cosine"
        columns = ("by", "class", "volumes", "of the same class", "by chance")
        blocks.append(table(f"Of {of_whom}, how many are of the same class", columns, rows))
    return Section("Embedding", tuple(blocks))


def _places(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two coordinates for each of (N, width) vectors; the same vectors, the same places."""
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
    found = []
    for column, name in PROPERTIES.items():
        values = volumes[column].to_pylist()
        classes = np.array([values[row] if row >= 0 else "" for row in rows])
        if len(set(classes) - {""}) > 1:
            found.append(Colouring(name, classes))
    return found


def _labels(study_keys: NDArray[np.str_], labels: LabelTable | None) -> list[Colouring]:
    if labels is None:
        return []
    joined = labels.join(study_keys)
    found = []
    for column, task in enumerate(labels.tasks):
        classes = np.full(len(study_keys), "", dtype="<U3")
        classes[joined.rows] = [
            "" if np.isnan(value) else "yes" if value else "no" for value in joined.values[:, column]
        ]
        if len(set(classes) - {""}) > 1:
            found.append(Colouring(task, classes))
    return found


def _alike(vectors: NDArray[np.float64], patients: NDArray[np.str_], one: Colouring) -> list[tuple]:
    """A row a class: how often a volume's neighbours share it, and how often any two volumes would."""
    known = np.flatnonzero(one.classes != "")
    classes, owners = one.classes[known], patients[known]
    if len(set(classes)) < 2 or len(set(owners)) < 2 or len(known) <= NEIGHBOURS:
        return []
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
        # The rarest come last, on top.
        for name, colour, marker in zip(shown, COLOURS, MARKERS, strict=False):
            style: Any = {"color": colour, "markersize": size, "markeredgewidth": 0, "alpha": 0.8}
            axes.plot(*places[one.classes == name].T, marker, label=name, **style)
        if rest.any():
            axes.plot(*places[rest].T, "+", color=DIM, markersize=size, label="other or not known", zorder=1)
        axes.grid(visible=False)
        axes.spines[:].set_visible(True)
        axes.set(xticks=[], yticks=[])
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        alt = f"Map of {len(places)} volumes by {one.name}: " + ", ".join(
            f"{n} {c}" for c, n in counts.items()
        )
        return svg(figure, f"map{number}", alt)
