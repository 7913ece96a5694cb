"""Studies as samples: all series together, the best one alone, and a volume as before."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.special import softmax
from small_sweep import bright_sweep

from fmct_hpc.probe.attentive import StudyAttentiveHead
from fmct_hpc.probe.config import SweepConfig
from fmct_hpc.probe.samples import Members
from fmct_hpc.probe.series import ROLES, Series, SeriesPool, over_series
from fmct_hpc.probe.series_attention import StudyLinearHead
from fmct_hpc.probe.sweep.grid import units
from fmct_hpc.probe.sweep.run import Sweep

COUNTS = np.array([2, 1, 3])


def some_series(values: np.ndarray) -> Series:
    return Series(values.astype(np.float32), np.array([1, 3, 0, 5, 3, 3]), np.cumsum(COUNTS) - COUNTS)


def each(series: Series) -> list[tuple[np.ndarray, np.ndarray]]:
    """Values and roles by study."""
    return [
        (series.values[start : start + count], series.roles[start : start + count])
        for start, count in zip(series.starts, series.counts, strict=True)
    ]


def test_attention_over_tokens_of_all_series_equals_numpy() -> None:
    generator = np.random.default_rng(0)
    series = some_series(generator.normal(size=(6, 5, 7)))
    mean, deviation = generator.normal(size=7), generator.uniform(0.5, 2, 7)
    queries, readout, embedding = (generator.normal(size=(n, 7)) for n in (3, 3, len(ROLES)))
    parts = (mean, deviation, queries, readout, np.array(0.3), embedding)
    head = StudyAttentiveHead(*(part.astype(np.float32) for part in parts))
    expected = []
    for values, roles in each(series):
        tokens = (values - mean) / deviation
        keys = tokens + embedding[roles][:, None]
        tokens, keys = tokens.reshape(-1, 7), keys.reshape(-1, 7)
        gathered = softmax(keys @ queries.T, axis=0).T @ tokens
        expected.append((gathered * readout).sum() + 0.3)
    assert head.raw_of_studies(series) == pytest.approx(np.array(expected), abs=1e-5)


def test_attention_over_pooled_series_and_plain_pooling_equal_numpy() -> None:
    generator = np.random.default_rng(1)
    series = some_series(generator.normal(size=(6, 4)))
    mean, scale, weight, attention = generator.normal(size=(4, 4))
    roles = generator.normal(size=len(ROLES))
    parts = (mean, scale, weight, np.array(0.1), attention, roles)
    head = StudyLinearHead(*(part.astype(np.float32) for part in parts))
    gathered = [softmax(v @ attention + roles[r]) @ v for v, r in each(series)]
    expected = ((np.array(gathered) - mean) * scale) @ weight + 0.1
    assert head.raw_of_studies(series) == pytest.approx(expected, abs=1e-5)
    pools: tuple[tuple[SeriesPool, Callable[..., np.ndarray]], ...] = (("mean", np.mean), ("max", np.max))
    for pool, numpys in pools:
        pooled = np.stack([numpys(values, axis=0) for values, _ in each(series)])
        np.testing.assert_allclose(over_series(series, pool), pooled, atol=1e-6)


def test_members_of_selected_studies() -> None:
    members = Members(np.arange(10, 16), some_series(np.zeros((6, 1))).roles, COUNTS)
    some = members.of(np.array([2, 0]))
    assert (some.volumes.tolist(), some.counts.tolist()) == ([13, 14, 15, 10, 11], [3, 2])
    assert some.roles.tolist() == [5, 3, 3, 1, 3]


def test_digests_of_volume_units_are_unchanged_by_samples() -> None:
    """Digests of the version before there were samples."""
    grid = {"data": "d", "labels": "l", "features": "f", "encoders": [{"name": "ours", "weights": "w"}]}
    config = SweepConfig.model_validate({**grid, "methods": ["logistic", "attentive"], "seeds": [0]})
    cohort: Any = SimpleNamespace(digest="0" * 64)
    actual = [unit.digest(config, cohort)[:16] for unit in units(config, ["bleed"])]
    assert actual == ["1fbe1b76dc958005", "661e30921862368a"]
    mean, maximum = (
        [unit.digest(of_pool, cohort) for unit in units(of_pool, ["bleed"])]
        for of_pool in (
            config.model_copy(update={"samples": ("study",), "series_pool": pool}) for pool in ("mean", "max")
        )
    )
    assert [a == b for a, b in zip(mean, maximum, strict=True)] == [False, True]


def test_a_study_of_one_series_has_the_score_of_its_volume(tmp_path: Path) -> None:
    settings = {
        "samples": ("volume", "study"),
        "methods": ("logistic", "linear", "neighbours", "attentive", "finetune"),
    }
    config = bright_sweep(tmp_path).model_copy(update=settings)
    short = {
        "linear": {"steps": 30},
        "attentive": {"steps": 20, "check_every": 10},
        "finetune": {"steps": 6, "check_every": 3, "batch": 8},
    }
    config = SweepConfig.model_validate(config.model_dump() | short)
    Sweep(config, tmp_path / "out").run()
    rows = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    scores: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        scores.setdefault((row["method"], row["sample"]), {})[row["key"]] = row["score"]
    assert len(scores) == 10
    for method in settings["methods"]:
        of_volumes = scores[method, "volume"]
        assert len(of_volumes) > 10
        assert len(set(of_volumes.values())) > 1
        assert scores[method, "study"] == pytest.approx(of_volumes, abs=1e-6), method
