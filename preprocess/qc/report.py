"""The QC report: a self-contained page about an export, for review before training."""

import base64
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import PIL.Image
import pyarrow as pa

from preprocess.config import CHECKS, CheckConfig
from preprocess.qc.pictures import Picture
from preprocess.qc.remedies import REMEDIES
from preprocess.qc.stored import Thumbnails
from preprocess.reasons import Reason
from preprocess.select.unmatched import UnmatchedTexts
from preprocess.volume.measure import Measures
from shards.atomic import write_text
from shards.index import numbers

GALLERY = 36
"""Thumbnails shown per kind."""
BINS = 30
MIDDLE = "Axial, coronal and sagittal slices through the middle."
DEFACED = "in the slices where most was blanked. These images show faces: protect them like the scans."
KEY_DIGITS = 8
SIMILAR_TITLE = "Similar volumes of different patients: {} pairs"
SIMILAR_TEXT = (
    "Their brains correlate like one scan exported twice; qc/alike.csv lists all pairs. "
    "They are not removed: if both volumes of a pair are of the same patient, correct the Patient ID."
)
SCANNER_MEDIANS = ("air_hu", "brain_hu", "bone_hu", "noise_hu", "jump_mm", "slice_thickness_mm")
"""Measures compared between scanners."""


@dataclass(frozen=True)
class Histogram:
    """The distribution of one measure over the volumes."""

    name: str
    description: str
    counts: tuple[int, ...]
    low: float
    high: float
    limits: tuple[float, ...]
    """Limits of the checks within [low, high]."""
    median: float
    missing: int
    """Volumes without this measure."""

    def place(self, value: float) -> float:
        """Relative position of `value` between low and high, in [0, 1]."""
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Figure:
    """A thumbnail with its caption."""

    key: str
    notes: str
    source: str
    """data: URI of a PNG."""


def write_report(
    path: Path,
    thumbnails: Thumbnails,
    volumes: pa.Table,
    rejected: pa.Table,
    alike: pa.Table,
    pictures: Iterable[Picture],
    config: CheckConfig,
    not_understood: UnmatchedTexts,
    totals: dict[str, Any],
) -> None:
    """Write the page atomically, from the stored volumes, manifest, quarantine and task results.

    totals: shown unchanged. The same input gives the same bytes.
    """
    flags = [row or () for row in volumes["flags"].to_pylist()]
    keys = volumes["key"].to_pylist()
    order = sorted(range(len(keys)), key=keys.__getitem__)
    sample = _stored(thumbnails, [(keys[i], flags[i]) for i in order[:GALLERY]])
    shown = [i for i in order if flags[i]][:GALLERY]
    flagged = _stored(thumbnails, [(keys[i], flags[i]) for i in shown])
    refused, defaced = _of_tasks(pictures)
    page = _template().render(
        totals=totals,
        rejections=_rejections(rejected),
        not_understood=not_understood,
        flags=_flags(flags),
        scanners=_scanners(volumes, flags, rejected),
        medians=SCANNER_MEDIANS,
        histograms=_histograms(volumes, config),
        galleries=[
            ("Stored volumes", f"Volumes with the smallest pseudonyms, a random sample. {MIDDLE}", sample),
            ("Flagged volumes", f"Stored volumes with at least one finding of the checks. {MIDDLE}", flagged),
            (
                SIMILAR_TITLE.format(len(alike)),
                f"{SIMILAR_TEXT} {MIDDLE}",
                _similar_pairs(thumbnails, alike),
            ),
            ("Volumes in quarantine", f"Volumes rejected by the checks. {MIDDLE}", refused),
            ("Defacing", f"Before and after, {DEFACED}", defaced),
        ],
    )
    write_text(path, page)


def _of_tasks(pictures: Iterable[Picture]) -> tuple[list[Figure], list[Figure]]:
    """The first pictures of rejected volumes and the first of defacing; the others are not kept."""
    refused: list[Figure] = []
    defaced: list[Figure] = []
    for one in pictures:
        listed, note = (refused, one.note) if one.kind == "rejected" else (defaced, f"{one.kind}: {one.note}")
        if len(listed) < GALLERY:
            listed.append(Figure(one.key[:KEY_DIGITS], note, png(one.array)))
    return refused, defaced


def _similar_pairs(thumbnails: Thumbnails, pairs: pa.Table) -> list[Figure]:
    """The most similar pairs, one volume after the other."""
    captions = [
        (key, [f"like {other[:KEY_DIGITS]}: {row['correlation']:.2f}"])
        for row in pairs.slice(0, GALLERY // 2).to_pylist()
        for key, other in ((row["key"], row["other_key"]), (row["other_key"], row["key"]))
    ]
    return _stored(thumbnails, captions)


def _stored(thumbnails: Thumbnails, captions: Sequence[tuple[str, Sequence[str]]]) -> list[Figure]:
    """Figures of volumes, given as their keys and notes."""
    pictures = thumbnails([key for key, _ in captions])
    return [
        Figure(key[:KEY_DIGITS], _words(notes), png(picture))
        for (key, notes), picture in zip(captions, pictures, strict=True)
    ]


def _words(reasons: Iterable[str]) -> str:
    return ", ".join(reason.replace("_", " ") for reason in reasons)


def png(picture: np.ndarray) -> str:
    """A uint8 image, grey (rows, columns) or RGB (rows, columns, 3), as a data: URI."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _rejections(rejected: pa.Table) -> list[tuple[str, str, int, str]]:
    """(stage, reason, series, remedy), the most frequent first."""
    counts = Counter(zip(rejected["stage"].to_pylist(), rejected["reason"].to_pylist(), strict=True))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(stage, _words([reason]), count, REMEDIES.get(reason, "")) for (stage, reason), count in ordered]


def _flags(flags: Sequence[Sequence[str]]) -> list[tuple[str, int]]:
    """(flag, volumes) for every check."""
    counts = Counter(flag for one in flags for flag in one)
    return [(_words([check]), counts[check]) for check in (*CHECKS, Reason.SAME_SCAN) if counts[check]]


def _scanners(
    volumes: pa.Table, flags: Sequence[Sequence[str]], rejected: pa.Table
) -> list[tuple[str, int, int, int, list[float | None]]]:
    """(scanner, volumes, flagged, rejected series, medians of `SCANNER_MEDIANS`), sorted by volumes."""
    names = np.array(volumes["scanner"].to_pylist(), object)
    flagged = np.array([bool(one) for one in flags])
    refused = Counter(rejected["scanner"].to_pylist())
    columns = {name: _numbers(volumes, name) for name in SCANNER_MEDIANS}
    rows = []
    for scanner in sorted({*names, *refused}):
        here = names == scanner
        medians = [_median(columns[name][here]) for name in SCANNER_MEDIANS]
        rows.append((scanner, int(here.sum()), int(flagged[here].sum()), refused[scanner], medians))
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """A column as float64; NaN for null."""
    return numbers(table[name].cast(pa.float64()).fill_null(np.nan))


def _median(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else None


def _histograms(volumes: pa.Table, config: CheckConfig) -> list[Histogram]:
    histograms = []
    for name, field in Measures.model_fields.items():
        values = _numbers(volumes, name)
        known = values[~np.isnan(values)]
        if not known.size:
            continue
        low, high = float(known.min()), float(known.max())
        if high - low <= 1e-9 * max(abs(low), abs(high)):  # a single value, or its rounding, has no bins
            low, high = low - 0.5, high + 0.5
        counts, _ = np.histogram(known, BINS, (low, high))
        limits = tuple(limit for limit in _limits(name, config) if low <= limit <= high)
        histograms.append(
            Histogram(
                name=name.replace("_", " "),
                description=field.description or "",
                counts=tuple(counts.tolist()),
                low=low,
                high=high,
                limits=limits,
                median=float(np.median(known)),
                missing=len(values) - known.size,
            )
        )
    return histograms


def _limits(measure: str, config: CheckConfig) -> tuple[float, ...]:
    """The configured limits of a measure: `air_hu` itself, or `min_` and `max_` with its name."""
    values = config.model_dump()
    limits = values.get(measure, ())
    return (*limits, *(values[key] for key in (f"min_{measure}", f"max_{measure}") if key in values))


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("preprocess.qc", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("qc.html")
