"""Exports with unknown texts, of a body, and defaced ones: reasons, flags and the QC report."""

import html
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom_files import Acquisition, axial
from preprocess_export import make_export, run_inline, write_series

from preprocess.config import CheckConfig, PrivacyConfig
from preprocess.qc.remedies import REMEDIES
from shards import Dataset


def test_the_report_counts_unmatched_texts_without_printing_them(tmp_path: Path) -> None:
    export = make_export(tmp_path, 1)
    for series, text in ((4, "Kepala Budi"), (5, "Kepala Sari")):
        unclear = axial(slices=3)
        write_series(export.folder, 0, series, unclear, SeriesDescription=text, ConvolutionKernel="Zz9x")
    export.rescan()
    summary = run_inline(export, tmp_path / "out", export.config())
    page = (tmp_path / "out" / "qc" / "report.html").read_text()
    part = page.split("<h2>Unrecognised texts</h2>")[1].split("<h2>")[0]
    cells = re.findall(r'<td>([^<]*)</td><td class="n">(\d+)</td>', part)
    assert sorted(cells) == [("kernel", "2"), ("series description", "2")]
    assert f"For {summary.volumes} series in volumes" in part
    assert not re.search("Kepala|Budi|Sari|Zz9x", page)
    for reason in summary.rejected_by_reason:
        assert html.escape(REMEDIES[reason]).replace("&#x27;", "&#39;") in page


def test_a_body_without_header_descriptions_is_rejected_as_not_a_head(tmp_path: Path) -> None:
    export = make_export(tmp_path, 1)
    positions = axial(slices=20, gap=6.0).positions - np.array([130, 130, 0])
    wide = Acquisition(positions, spacing=(8.0, 8.0))

    def trunk(points: np.ndarray) -> np.ndarray:
        across, deep = points[..., 0] / 130, points[..., 1] / 100
        return np.where(across**2 + deep**2 < 1, 40, -1000)

    wide.write(export.folder / "body", trunk)
    export.rescan()
    run_inline(export, tmp_path / "out", export.config())
    reasons = pq.read_table(tmp_path / "out" / "quarantine.parquet")["reason"].to_pylist()
    assert reasons.count("not_a_head") == 1
    lenient = export.config().model_copy(update={"check": CheckConfig(reject=())})
    run_inline(export, tmp_path / "lenient", lenient)
    flags = pq.read_table(tmp_path / "lenient" / "manifest.parquet")["flags"].to_pylist()
    assert sorted("not_a_head" in one for one in flags) == [False, True]


@pytest.mark.parametrize("shown", [True, False])
def test_defaced_volumes_are_flagged_and_shown_only_where_the_report_may(tmp_path: Path, shown: bool) -> None:
    export = make_export(tmp_path, 1)
    privacy = PrivacyConfig(deface=True, show_defacing=shown)
    config = export.config().model_copy(update={"privacy": privacy})
    assert config.digest() != export.config().digest()
    run_inline(export, tmp_path / "out", config)
    dataset = Dataset.open(tmp_path / "out" / "zarr")
    assert dataset.record(0).facts.defaced
    assert dataset.info.config_digest == config.digest()
    assert pq.read_table(tmp_path / "out" / "manifest.parquet")["defaced"].to_pylist() == [True]
    page = (tmp_path / "out" / "qc" / "report.html").read_text()
    assert (">Defacing<" in page) == ("before: " in page) == shown
