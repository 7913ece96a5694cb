"""The QC report draws and keeps only the volumes that it shows, however many there are."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from preprocess.config import CheckConfig
from preprocess.qc import report
from preprocess.qc.pictures import Picture
from preprocess.qc.thumbnail import SHAPE
from preprocess.select.unmatched import UnmatchedTexts
from preprocess.volume.measure import Measures

VOLUMES = 3 * report.GALLERY
KEYS = [f"{number:08x}" + 24 * "0" for number in reversed(range(VOLUMES))]
SHOWN = [key[: report.KEY_DIGITS] for key in sorted(KEYS)[: report.GALLERY]]


def of_tasks() -> Iterator[Picture]:
    pixels = bytes(int(np.prod(SHAPE)))
    for key in reversed(KEYS):
        for kind in ("rejected", "before", "after"):
            yield Picture(key, kind, "note", pixels)


def test_only_the_shown_volumes_are_drawn(tmp_path: Path) -> None:
    drawn: list[str] = []

    def thumbnails(keys: Sequence[str]) -> list[np.ndarray]:
        drawn.extend(key[: report.KEY_DIGITS] for key in keys)
        return [np.zeros(SHAPE, np.uint8)] * len(keys)

    volumes = pa.table({"key": KEYS, "flags": [["noise"]] * VOLUMES, "scanner": ["one"] * VOLUMES})
    for name in {*Measures.model_fields, *report.SCANNER_MEDIANS}:
        volumes = volumes.append_column(name, pa.nulls(VOLUMES, pa.float64()))
    rejected = pa.table({name: pa.array([], pa.string()) for name in ("stage", "reason", "scanner")})
    alike = pa.table({name: pa.array([], pa.string()) for name in ("key", "other_key")})
    page = tmp_path / "report.html"
    report.write_report(
        page,
        thumbnails,
        volumes,
        rejected,
        alike,
        of_tasks(),
        CheckConfig(),
        UnmatchedTexts(),
        {},
    )
    assert drawn == 2 * SHOWN, "the sample, then the flagged volumes"
    captions = re.findall(r"<code>(\w+)</code>", page.read_text())
    twice = [key for key in SHOWN for _ in range(2)][: report.GALLERY]
    assert captions == [*SHOWN, *SHOWN, *SHOWN, *twice]
