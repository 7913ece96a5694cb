"""The order of samples: permutations, epochs, and ranks' shares."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmct_hpc.data.order import Order, Share
from shards.errors import FmctError


def epoch_order(seed: int, samples: int, epoch: int) -> np.ndarray:
    """The samples of one epoch, one after another."""
    return Order(seed, samples, 1).at(epoch * samples + np.arange(samples))[1]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**64 - 1), samples=st.integers(1, 3000), epoch=st.integers(0, 10**6))
def test_each_epoch_is_a_permutation(seed, samples, epoch):
    assert np.array_equal(np.sort(epoch_order(seed, samples, epoch)), np.arange(samples))


@settings(deadline=None, max_examples=60)
@given(samples=st.integers(1, 50), batch=st.integers(1, 120), steps=st.integers(1, 40))
def test_batches_straddle_epochs_and_drop_nothing(samples, batch, steps):
    order = Order(3, samples, batch)
    indices = np.concatenate([order.indices(step) for step in range(steps)])
    epochs = np.concatenate([order.epochs(step) for step in range(steps)])
    assert [order.epoch(step) for step in range(steps)] == epochs[::batch].tolist()
    for epoch in range(len(indices) // samples):
        assert np.array_equal(np.sort(indices[epochs == epoch]), np.arange(samples))


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (1, 4), (2, 2), (3, 4), (12, 1), (4, 3)])
def test_ranks_together_take_the_global_batch(world_size, accumulate):
    order = Order(0, 10, 12)
    taken = np.concatenate(
        [
            order.at(Share(order, rank, world_size, accumulate).positions(7, a))[1]
            for rank in range(world_size)
            for a in range(accumulate)
        ]
    )
    assert np.array_equal(taken, order.indices(7))


def test_a_batch_that_cannot_be_shared_out_names_the_keys():
    with pytest.raises(FmctError, match=r"run\.batch=10 .* engine\.accumulate = 3 × 2"):
        _ = Share(Order(0, 100, 10), 0, 3, 2).micro_batch


def test_a_huge_dataset_needs_no_memory():
    order = Order(0, 10**15, 8)
    assert len(set(order.indices(10**9).tolist())) == 8


def test_epochs_and_seeds_give_unrelated_orders():
    first, other_epoch, other_seed = (epoch_order(*key) for key in ((0, 500, 0), (0, 500, 1), (1, 500, 0)))
    assert abs(np.corrcoef([first, other_epoch, other_seed, np.arange(500)]) - np.eye(4)).max() < 0.2


def test_every_order_of_a_small_dataset_is_equally_likely():
    epochs = 12_000
    orders = Order(5, 4, 1).at(np.arange(4 * epochs))[1].reshape(epochs, 4)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    # Chi-square with 23 degrees of freedom: 49.7 is its 99.9 % quantile.
    assert ((counts - epochs / 24) ** 2 / (epochs / 24)).sum() < 49.7
