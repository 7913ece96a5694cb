"""The study's intervals: over heads, pretrainings and the draws of labels that share one."""

import numpy as np
import pytest
from numpy.typing import NDArray

from launch.study.results import resampled_means

BOOTSTRAP = 4000


def areas(of_draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Areas without any spread over heads: (draws, 1 + BOOTSTRAP, 1 finding)."""
    return np.broadcast_to(of_draws[:, None, None], (len(of_draws), 1 + BOOTSTRAP, 1))


def test_draws_of_one_pretraining_do_not_count_as_pretrainings() -> None:
    level = np.array([0.6, 0.7, 0.9])
    alone = resampled_means([areas(np.array([value])) for value in level])
    repeated = resampled_means([areas(np.full(4, value)) for value in level])
    # Of a bootstrap's mean of n, the variance is the values' (with 1/n) by n.
    assert alone.std() == pytest.approx((level.var() / 3) ** 0.5, rel=0.05)
    assert repeated.std() == pytest.approx(alone.std(), rel=0.05)
    assert set(np.round(alone.ravel(), 9)) == {
        round(float(np.mean(drawn)), 9) for drawn in np.array(np.meshgrid(*(3 * [level]))).reshape(3, -1).T
    }


def test_draws_are_independent_where_each_has_a_pretraining_of_its_own_or_all_have_one() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.05, 8)
    expected = (values.var() / 8) ** 0.5
    assert resampled_means([areas(values)]).std() == pytest.approx(expected, rel=0.05)
    each = [areas(values[k : k + 1]) for k in range(8)]
    assert resampled_means(each).std() == pytest.approx(expected, rel=0.05)


def test_heads_are_drawn_alike_for_all_draws() -> None:
    heads = np.random.default_rng(1).normal(0.7, 0.05, (1, 1 + BOOTSTRAP, 1))
    drawn = resampled_means([np.repeat(heads, 2, axis=0), heads])
    np.testing.assert_allclose(drawn, heads[0, 1:])
