"""A page of similar volumes: the nearest by an independent search, pictures, labels, and no name."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_sweep import bright_sweep
from typer.testing import CliRunner

from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.probe.store import FeatureStore
from fmct_hpc.probe.sweep.run import Sweep
from fmct_hpc.retrieval.config import SearchConfig
from fmct_hpc.retrieval.index import lists_for
from fmct_hpc.retrieval.search import neighbours
from launch.cli import app
from launch.report.similar import similar
from shards.errors import FmctError
from shards.split import sample


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    grid = bright_sweep(tmp_path_factory.mktemp("sweep"))
    Sweep(grid, grid.features.parent / "out").extract()
    return grid


def arguments(grid: SweepConfig, exam: Path) -> dict[str, Any]:
    store = grid.features / "ours"
    return {"exam": exam, "encoder": grid.features.parent / "ours", "among": store, "data": grid.data}


def test_the_nearest_equal_an_independent_search(grid: SweepConfig, tmp_path: Path) -> None:
    sample(grid.data, tmp_path / "exam", 3, seed=1)
    result = similar(**arguments(grid, tmp_path / "exam"), out=tmp_path / "page.html", count=7)
    store = FeatureStore.open(grid.features / "ours")
    x = store.vectors().astype(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    place = {key: i for i, key in enumerate(store.keys.tolist())}
    assert len(result) == 3
    for key, nearest in result:
        cosines = x @ x[place[key]]
        assert [one.similarity for one in nearest] == pytest.approx(np.sort(cosines)[::-1][:7], abs=1e-5)
        assert nearest[0].key == key, "it is in the dataset itself"
        assert nearest[0].similarity == pytest.approx(1)
    page = (tmp_path / "page.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 3 * (1 + 7)
    assert page.count(", the same scan") >= 3
    assert str(tmp_path) not in page


def test_features_larger_than_memory_are_searched_by_an_index(grid: SweepConfig) -> None:
    store = FeatureStore.open(grid.features / "ours")
    own = store.vectors()[:10]
    assert lists_for(len(store)) < len(own)
    plain = neighbours(store, own, 4)
    kilobytes = SearchConfig(memory_gb=4 * store.vectors().size / 1e9 / 1.5, probes=1)
    actual = neighbours(store, own, 4, kilobytes)
    for one, other in zip(plain, actual, strict=True):
        assert [a.key for a in one] == [b.key for b in other]
        assert [a.similarity for a in one] == pytest.approx([b.similarity for b in other], abs=1e-6)


def test_labels_are_printed_under_the_volumes(grid: SweepConfig, tmp_path: Path) -> None:
    given = {f"--{name}": str(path) for name, path in arguments(grid, grid.data).items() if name != "exam"}
    words = [word for pair in given.items() for word in pair]
    page = tmp_path / "page.html"
    result = CliRunner().invoke(
        app,
        ["similar", str(grid.data), *words, "--labels", str(grid.labels), "--out", str(page), "--count", "1"],
    )
    assert result.exit_code == 0, result.output
    bright = sum(pq.read_table(grid.labels)["bright"].to_pylist())
    captions = page.read_text().split("<figcaption")
    assert sum(": bright" in part.split("</figcaption>")[0] for part in captions) == bright
    assert sum(": no positive label" in part.split("</figcaption>")[0] for part in captions) == 60 - bright


def test_features_of_another_encoder_are_refused(grid: SweepConfig, tmp_path: Path) -> None:
    sample(grid.data, tmp_path / "exam", 3, seed=1)
    given = arguments(grid, grid.data)
    with pytest.raises(FmctError, match="features of another dataset"):
        similar(**given | {"data": tmp_path / "exam"}, out=tmp_path / "page.html")
    other = bright_sweep(tmp_path / "other", seed=1).features.parent / "ours"
    with pytest.raises(FmctError, match="features of another encoder"):
        similar(**given | {"encoder": other}, out=tmp_path / "page.html")
    with pytest.raises(FmctError, match=r"ends in \.html"):
        similar(**given, out=tmp_path / "page.pdf")
    assert not (tmp_path / "page.html").exists()
