"""Report sections on groups, changed scans and retrieval, made from tables alone."""

from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmct_hpc.probe import subgroups
from fmct_hpc.retrieval import run as retrieval
from fmct_hpc.robustness import figures, run
from launch.report.document import Bullets, Document, Facts, Gallery, Section, Table
from launch.report.results import split_in_words
from launch.report.retrieval import retrieval_section
from launch.report.robustness import robustness_section
from launch.report.subgroups import subgroups_section
from shards.errors import FmctError

RESULT = {
    "encoder": "ours",
    "method": "logistic",
    "pool": "both",
    "layer": -1,
    "task": "bleed",
    "split": "id",
}


Kind = TypeVar("Kind")


def card(section: Section) -> str:
    document = Document("t", Facts("s", ()), (section,))
    assert section.title in document.html()
    return document.markdown("page.html")


def only(section: Section, kind: type[Kind]) -> list[Kind]:
    return [block for block in section.blocks if isinstance(block, kind)]


def test_groups_of_acquisition_are_shown_and_site_groups_are_not(tmp_path: Path) -> None:
    assert subgroups_section(tmp_path) is None
    area = {"auc": 0.8, "auc_low": 0.7, "auc_high": 0.9, "predicted": 0.3}
    gap = {"gap": -0.2, "gap_low": -0.3, "gap_high": -0.1, "auc_others": 1.0}
    rows = [
        {
            **RESULT,
            "by": "kernel_class",
            "group": "bone",
            "n": 40,
            "positives": 10,
            "patients": 30,
            **area,
            **gap,
        },
        {**RESULT, "by": "kvp", "group": "unknown", "n": 4, "positives": 0, "patients": 4, "reason": "one"},
        {**RESULT, "by": "ward", "group": "ICU-7", "n": 40, "positives": 10, "patients": 30, **area, **gap},
    ]
    pq.write_table(pa.Table.from_pylist(rows, subgroups.SCHEMA), tmp_path / subgroups.TABLE)
    section = subgroups_section(tmp_path)
    assert section is not None
    (table,) = only(section, Table)
    shown = dict(zip(table.columns, (cell.text for cell in table.rows[0]), strict=True))
    assert (shown["by"], shown["group"], shown["volumes"]) == ("kernel", "bone", "40")
    assert shown["gap [interval]"] == "-0.200 [-0.300, -0.100]"
    assert len(table.rows) == 1
    text = card(section)
    assert "ICU-7" not in text
    assert "ward" not in text
    assert [len(block.items) for block in only(section, Bullets)] == [2]


def test_curves_cover_the_severities_of_every_set(tmp_path: Path) -> None:
    counted = {"kind": "binary", "figure": "auc", "n": 40, "positives": 9, "patients": 40, "confidence": 0.9}
    rows = [
        {
            **{
                **RESULT,
                **counted,
                "encoder": encoder,
                "split": split,
                "change": change,
                "severity": severity,
            },
            **{"value": 0.9 - severity / 100, "low": 0.7, "high": 0.95, "unit": "mm"},
            **{"difference": -severity / 100, "difference_low": -0.2, "difference_high": 0.1},
        }
        for encoder in ("ours", "theirs")
        for split in ("id", "ood:site-b")
        for change in ("thicker", "noise")
        for severity in (0.0, 5.0)
    ]
    rows.append(
        {**RESULT, "task": "rare", "split": None, "reason": "1 positive training patients, 2 are needed"}
    )
    pq.write_table(pa.Table.from_pylist(rows, figures.SCHEMA), tmp_path / run.TABLE)
    text, page = card(robustness_section(tmp_path)), robustness_section(tmp_path).blocks[1]
    assert isinstance(page, Gallery)
    assert len(page.pictures) == 2
    assert "out of distribution: site-b" in text
    assert "[90%" in text.replace("\\", "")
    assert "rare: 1 positive training patients" in text
    assert len(only(robustness_section(tmp_path), Table)[0].rows) == 16
    assert text == card(robustness_section(tmp_path)), "the same input, the same bytes"


def test_a_missing_or_damaged_table_is_named(tmp_path: Path) -> None:
    for section, name in ((robustness_section, run.TABLE), (retrieval_section, retrieval.TABLE)):
        with pytest.raises(FmctError, match="missing"):
            section(tmp_path)
        (tmp_path / name).write_bytes(b"PAR1")
        with pytest.raises(FmctError, match=f"{name}: damaged"):
            section(tmp_path)


def test_sets_have_names_in_words() -> None:
    names = [split_in_words(split) for split in ("id", "ood", "ood:site-b")]
    assert names == ["in distribution", "out of distribution", "out of distribution: site-b"]
