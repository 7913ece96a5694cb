"""What the QC report draws has a bound: an archive may have as many flagged volumes as volumes."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from preprocess.config import CheckConfig
from preprocess.qc import report
from preprocess.qc.pictures import Picture
from preprocess.qc.thumbnail import SHAPE
from preprocess.select.unmatched import UnmatchedTexts

VOLUMES = 3 * report.GALLERY
PIXELS = bytes(SHAPE[0] * SHAPE[1] * (SHAPE[2] if len(SHAPE) > 2 else 1))


def of_tasks() -> Iterator[Picture]:
    for number in range(VOLUMES):
        for kind in ("rejected", "before", "after"):
            yield Picture(f"{number:032x}", kind, "note", PIXELS)


def test_no_more_volumes_are_read_than_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    shown: dict[str, Any] = {}

    def stored(dataset: Any, key: str, *_: Any) -> report.Figure:
        read.append(key)
        return report.Figure(key, "", "")

    monkeypatch.setattr(report, "Dataset", SimpleNamespace(open=lambda path: None))
    monkeypatch.setattr(report, "_stored", stored)
    monkeypatch.setattr(
        report, "_template", lambda: SimpleNamespace(render=lambda **all: shown.update(all) or "")
    )
    for name in ("_scanners", "_histograms", "_rejections", "_flags"):
        monkeypatch.setattr(report, name, lambda *_: [])
    keys = [f"{number:032x}" for number in reversed(range(VOLUMES))]
    volumes = pa.table({"key": keys, "flags": [["noise"]] * VOLUMES})
    alike = pa.table({"key": keys[:0], "other_key": keys[:0]})
    given: Any = (pa.table({}), alike, of_tasks(), CheckConfig(), UnmatchedTexts(), {}, (40.0, 80.0))
    report.write_report(tmp_path / "report.html", tmp_path, volumes, *given)
    least = sorted(keys)[: report.GALLERY]
    assert read == 2 * least, "the sample, then the flagged volumes"
    figures = {title: [figure.key for figure in figures] for title, _, figures in shown["galleries"]}
    assert figures["Flagged volumes"] == least
    first = [key[: report.KEY_DIGITS] for key in least]
    assert figures["Volumes in quarantine"] == first
    assert figures["Defacing"] == [key for key in first for _ in range(2)][: report.GALLERY]
