"""The QC report reads and keeps only the volumes that it shows, however many there are."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from preprocess.config import CheckConfig
from preprocess.qc import report
from preprocess.qc.pictures import Picture
from preprocess.qc.thumbnail import SHAPE
from preprocess.select.unmatched import UnmatchedTexts
from preprocess.volume.measure import Measures

VOLUMES = 3 * report.GALLERY
KEYS = [f"{number:08x}" + 24 * "0" for number in reversed(range(VOLUMES))]
SHOWN = [key[: report.KEY_DIGITS] for key in sorted(KEYS)[: report.GALLERY]]


class CountingDataset:
    """A dataset of small volumes that records which of them are read."""

    info = SimpleNamespace(spacing_mm=(1.0, 1.0, 1.0))

    def __init__(self) -> None:
        self.read_keys: list[str] = []

    def position(self, key: str) -> str:
        return key

    def read(self, key: str) -> np.ndarray:
        self.read_keys.append(key[: report.KEY_DIGITS])
        return np.zeros((4, 4, 4), np.int16)


def of_tasks() -> Iterator[Picture]:
    pixels = bytes(int(np.prod(SHAPE)))
    for key in reversed(KEYS):
        for kind in ("rejected", "before", "after"):
            yield Picture(key, kind, "note", pixels)


def test_only_the_shown_volumes_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = CountingDataset()
    monkeypatch.setattr(report, "Dataset", SimpleNamespace(open=lambda path: dataset))
    volumes = pa.table({"key": KEYS, "flags": [["noise"]] * VOLUMES, "scanner": ["one"] * VOLUMES})
    for name in {*Measures.model_fields, *report.SCANNER_MEDIANS}:
        volumes = volumes.append_column(name, pa.nulls(VOLUMES, pa.float64()))
    rejected = pa.table({name: pa.array([], pa.string()) for name in ("stage", "reason", "scanner")})
    alike = pa.table({name: pa.array([], pa.string()) for name in ("key", "other_key")})
    page = tmp_path / "report.html"
    report.write_report(
        page,
        tmp_path,
        volumes,
        rejected,
        alike,
        of_tasks(),
        CheckConfig(),
        UnmatchedTexts(),
        {},
        (40.0, 80.0),
    )
    assert dataset.read_keys == 2 * SHOWN, "the sample, then the flagged volumes"
    captions = re.findall(r"<code>(\w+)</code>", page.read_text())
    twice = [key for key in SHOWN for _ in range(2)][: report.GALLERY]
    assert captions == [*SHOWN, *SHOWN, *SHOWN, *twice]
