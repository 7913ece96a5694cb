"""The order of samples: permutations, epochs, and ranks' shares."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmct_hpc.data.order import Order, Share
from shards.errors import FmctError

shard_sizes = st.lists(st.integers(1, 60), min_size=1, max_size=40).map(tuple)


def epoch_order(seed: int, samples: int, epoch: int) -> np.ndarray:
    """The samples of one epoch of a dataset of one shard, in order."""
    return Order(seed, (samples,), 1).at(epoch * samples + np.arange(samples))[1]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**63 - 1),
    shards=shard_sizes,
    batch=st.integers(1, 1500),
    epoch=st.integers(0, 10**6),
)
def test_each_epoch_is_a_permutation(seed: int, shards: tuple[int, ...], batch: int, epoch: int) -> None:
    order = Order(seed, shards, batch)
    epochs, indices = order.at(epoch * order.samples + np.arange(order.samples))
    assert (epochs == epoch).all()
    assert np.array_equal(np.sort(indices), np.arange(order.samples))


@settings(deadline=None, max_examples=60)
@given(shards=shard_sizes, batch=st.integers(1, 120), steps=st.integers(1, 40))
def test_batches_span_epochs_and_drop_nothing(shards: tuple[int, ...], batch: int, steps: int) -> None:
    order, samples = Order(3, shards, batch), sum(shards)
    indices = np.concatenate([order.indices(step) for step in range(steps)])
    epochs = np.concatenate([order.epochs(step) for step in range(steps)])
    assert [order.epoch(step) for step in range(steps)] == epochs[::batch].tolist()
    for epoch in range(len(indices) // samples):
        assert np.array_equal(np.sort(indices[epochs == epoch]), np.arange(samples))


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (1, 4), (2, 2), (3, 4), (12, 1), (4, 3)])
def test_ranks_together_take_the_global_batch(world_size: int, accumulate: int) -> None:
    order = Order(0, (4, 6), 12)
    taken = np.concatenate(
        [
            order.at(Share(order, rank, world_size, accumulate).positions(7, a))[1]
            for rank in range(world_size)
            for a in range(accumulate)
        ]
    )
    assert np.array_equal(taken, order.indices(7))


def test_an_indivisible_batch_is_refused_by_its_keys() -> None:
    with pytest.raises(FmctError, match=r"run\.batch=10 .* engine\.accumulate = 3 × 2"):
        _ = Share(Order(0, (100,), 10), 0, 3, 2).micro_batch


def test_a_huge_dataset_needs_no_memory() -> None:
    order = Order(0, (10**12,) * 1000, 8)
    assert len(set(order.indices(10**9).tolist())) == 8


ARCHIVE = 361_663
"""Number of volumes of the published dataset."""


def archive_shards() -> tuple[int, ...]:
    """Shards of 2 GB: some 290 volumes of 7 MB each."""
    sizes = np.random.default_rng(0).integers(240, 340, 1245)
    sizes[-1] += ARCHIVE - sizes.sum()
    assert sizes.min() > 0
    return tuple(sizes.tolist())


@pytest.mark.parametrize("batch", [1024, 4096])
def test_1024_ranks_share_an_epoch_of_the_archive(batch: int) -> None:
    ranks, node, shards = 1024, 8, archive_shards()
    order = Order(11, shards, batch)
    shard_of = np.repeat(np.arange(len(shards)), shards)
    noise = np.random.default_rng(1)
    size = noise.lognormal(0, 0.3, ARCHIVE) * noise.normal(7e6, 7e5, len(shards))[shard_of]
    taken: list[list[np.ndarray]] = [[] for _ in range(ranks)]
    steps = ARCHIVE // batch + 1
    epochs, indices = order.at(np.arange(steps * batch))
    for rank in range(ranks):  # a rank's share of every step, by the loader's rule
        share = Share(order, rank, ranks, 1)
        places = share.positions(0, 0)[:, None] + batch * np.arange(steps)
        assert np.array_equal(share.positions(5, 0), places[:, 5])
        taken[rank] = [indices[places].ravel(), epochs[places].ravel()]
    first = [seen[epoch == 0] for seen, epoch in taken]
    assert np.array_equal(np.sort(np.concatenate(first)), np.arange(ARCHIVE))
    # The last batch extends into epoch 1: all ranks have equal shares of it.
    assert {len(seen) for seen, _ in taken} == {steps * batch // ranks}
    assert 0 < sum((epoch == 1).sum() for _, epoch in taken) < batch
    bytes_read = np.array([size[seen].sum() for seen in first])
    assert bytes_read.max() < 1.2 * bytes_read.mean()
    assert bytes_read.std() < 0.06 * bytes_read.mean()
    opened = [set(shard_of[seen]) for seen in first]
    assert max(map(len, opened)) <= 9
    by_node = [set.union(*opened[n : n + node]) for n in range(0, ranks, node)]
    # Almost every shard is fetched by a single node; in an order without shards, by 114 nodes.
    assert sum(map(len, by_node)) < 1.15 * len(shards)


@pytest.mark.parametrize("step", [0, 352, 353, 10**6])
def test_a_step_has_the_same_samples_at_any_number_of_ranks(step: int) -> None:
    order = Order(2, archive_shards(), 1024)
    for world_size, accumulate in ((1, 8), (2, 1), (64, 2), (1024, 1)):
        shares = [Share(order, rank, world_size, accumulate) for rank in range(world_size)]
        positions = [share.positions(step, a) for share in shares for a in range(accumulate)]
        assert np.array_equal(order.at(np.concatenate(positions))[1], order.indices(step))


@pytest.mark.parametrize("batch", [16, 256, 4096])
def test_a_batch_is_drawn_from_many_shards(batch: int) -> None:
    order = Order(4, archive_shards(), batch)
    shard_of = np.repeat(np.arange(len(order.shards)), order.shards)
    assert len(np.unique(shard_of[order.indices(100)])) > 0.9 * min(batch, 256)
    near = np.concatenate([order.indices(step) for step in range(100, 101 + 2048 // batch)])
    assert len(np.unique(shard_of[near])) > 200


def test_substitutes_are_spread_and_depend_on_seed_position_and_attempt() -> None:
    order = Order(5, (30, 70), 10)
    drawn = [order.substitute(position, 0) for position in range(3000)]
    assert drawn == [order.substitute(position, 0) for position in range(3000)]
    assert np.bincount(drawn, minlength=100).min() > 5
    assert max(drawn) < 100
    others = [
        [order.substitute(position, 1) for position in range(3000)],
        [Order(6, (30, 70), 10).substitute(position, 0) for position in range(3000)],
    ]
    for other in others:
        assert (np.array(other) == drawn).mean() < 0.03


def test_epochs_and_seeds_give_independent_orders() -> None:
    first, other_epoch, other_seed = (epoch_order(*key) for key in ((0, 500, 0), (0, 500, 1), (1, 500, 0)))
    assert abs(np.corrcoef([first, other_epoch, other_seed, np.arange(500)]) - np.eye(4)).max() < 0.2


@pytest.mark.parametrize(("shards", "batch"), [((4,), 1), ((4,), 3), ((1, 3), 2)])
def test_every_permutation_of_a_small_dataset_is_equally_likely(shards: tuple[int, ...], batch: int) -> None:
    epochs = 3_000
    orders = Order(5, shards, batch).at(np.arange(4 * epochs))[1].reshape(epochs, 4)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    # Chi-square with 23 degrees of freedom: 49.7 is its 99.9 % quantile.
    assert ((counts - epochs / 24) ** 2 / (epochs / 24)).sum() < 49.7
