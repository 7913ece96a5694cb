"""The study's intervals: over heads, pretrainings and draws of labels."""

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from launch.study.cells import Heads, save
from launch.study.cohort import Split
from launch.study.config import StudyConfig
from launch.study.findings import Finding
from launch.study.plan import all_cells
from launch.study.report import write_report
from launch.study.results import areas as areas_of_cells
from launch.study.results import interval, resampled_means

BOOTSTRAP = 4000


def areas(of_draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Areas without any spread over heads: (draws, 1 + BOOTSTRAP, 1 finding)."""
    return np.broadcast_to(of_draws[:, None, None], (len(of_draws), 1 + BOOTSTRAP, 1))


def test_draws_of_one_pretraining_do_not_count_as_pretrainings() -> None:
    level = np.array([0.6, 0.7, 0.9])
    alone = resampled_means([areas(np.array([value])) for value in level])
    repeated = resampled_means([areas(np.full(4, value)) for value in level])
    # The variance of a bootstrap mean of n values is theirs (with 1/n) divided by n.
    assert alone.std() == pytest.approx((level.var() / 3) ** 0.5, rel=0.05)
    assert repeated.std() == pytest.approx(alone.std(), rel=0.05)
    assert set(np.round(alone.ravel(), 9)) == {
        round(float(np.mean(drawn)), 9) for drawn in np.array(np.meshgrid(*(3 * [level]))).reshape(3, -1).T
    }


def test_draws_are_independent_with_separate_pretrainings_or_a_single_one() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.05, 8)
    expected = (values.var() / 8) ** 0.5
    assert resampled_means([areas(values)]).std() == pytest.approx(expected, rel=0.05)
    each = [areas(values[k : k + 1]) for k in range(8)]
    assert resampled_means(each).std() == pytest.approx(expected, rel=0.05)


def test_the_same_heads_are_resampled_for_all_draws() -> None:
    heads = np.random.default_rng(1).normal(0.7, 0.05, (1, 1 + BOOTSTRAP, 1))
    drawn = resampled_means([np.repeat(heads, 2, axis=0), heads])
    np.testing.assert_allclose(drawn, heads[0, 1:])


def test_an_objective_is_compared_with_the_best_of_its_parts_over_the_same_heads(tmp_path: Path) -> None:
    """Slightly above its best part: intervals overlap, but that of the difference excludes 0."""
    config = StudyConfig.model_validate(
        {
            **{"sizes": [300], "fractions": [0.1], "seeds": [0], "bootstrap": 400},
            "objectives": {
                "weak": {"train": {}},
                "part": {"train": {}},
                "whole": {"train": {}, "parts": ["weak", "part"]},
            },
        }
    )
    generator = np.random.default_rng(2)
    labels = (generator.random((800, len(Finding))) < 0.3).astype(np.float64)
    halves = {Split.TEST: np.arange(400), Split.UNSEEN: np.arange(400, 800)}
    heads = Heads(labels, halves, np.arange(800))
    noise = generator.normal(size=labels.shape)
    signal = {"weak": 0.5, "part": 1.2, "whole": 1.28}
    (tmp_path / "cells").mkdir()
    for cell in all_cells(config):
        scores = signal.get(cell.arm, 0.0) * labels + noise
        save(tmp_path / "cells" / cell.file_name, scores.astype(np.float32), 0.0)
    known = areas_of_cells(config, tmp_path, heads)
    whole, part = (known[(arm, "finetune", 300, 0.1), "seen"] for arm in ("whole", "part"))
    assert interval(whole.resampled, config)[0, -1] < interval(part.resampled, config)[1, -1]
    low, high = interval(whole.resampled - part.resampled, config)[:, -1]
    assert 0 < low < whole.mean[-1] - part.mean[-1] < high
    goal = write_report(config, tmp_path, heads)
    lines = [line for line in goal.splitlines() if "(part)" in line]
    assert len(lines) == 4  # fine-tuned and frozen, seen and unseen
    first = re.search(r"\+(\d.\d+) \\?\[\\?\+(\d.\d+), \+(\d.\d+)\\?\]", lines[0])
    assert first, lines
    expected = (whole.mean[-1] - part.mean[-1], low, high)
    assert [float(value) for value in first.groups()] == pytest.approx(expected, abs=5.1e-4)
