"""Draws of the objective: masks, paths and directions depend on seed, step and sample alone."""

import numpy as np
import pytest
import torch
from small_model import config

from fmct_hpc.objective.draws import draw, path_scales
from fmct_hpc.objective.ibot import Masked, block_order, masked_patches
from fmct_hpc.objective.mae import keep_indices


def test_masks_depend_on_seed_step_and_sample_alone() -> None:
    samples = np.array([7, 3, 99])
    keep = keep_indices(1, 10, samples, 64, 0.75)
    assert keep.shape == (3, 16)
    assert all(len(set(row.tolist())) == 16 for row in keep)
    assert torch.equal(keep[1:2], keep_indices(1, 10, np.array([3]), 64, 0.75))
    for other in (keep_indices(2, 10, samples, 64, 0.75), keep_indices(1, 11, samples, 64, 0.75)):
        assert not torch.equal(keep, other)


def test_ibot_masks_are_blocks_of_the_drawn_share() -> None:
    samples = np.array([7, 3, 99, 4])

    def drawn(step: int, samples: np.ndarray) -> Masked:
        return masked_patches(1, step, samples, 2, (8, 8, 8), 512, 0.5, (0.1, 0.5))

    masked = drawn(10, samples)
    where = masked.where(None)
    counts = where.sum(-1)
    assert torch.equal(counts, masked.counts)
    assert ((counts == 0) | ((counts >= 51) & (counts <= 256))).all()
    assert (counts == 0).any()
    assert (counts > 0).any()
    shares = torch.zeros(where.shape)
    shares[where] = masked.weights
    torch.testing.assert_close(shares.sum(-1), (counts > 0) / 8)
    assert torch.equal(drawn(10, samples[2:3]).where(None)[:, 0], where[:, 2])
    assert not torch.equal(where, drawn(11, samples).where(None))


def covered_by_hand(drawn: np.random.Generator, grid: tuple[int, ...], count: int) -> np.ndarray:
    """Cuboids until `count` patches are masked, the last one truncated: bool, of the grid."""
    mask = np.zeros(grid, dtype=bool)
    least = [min(2, edge) for edge in grid]
    most = [max(low, edge // 2) for low, edge in zip(least, grid, strict=True)]
    while mask.sum() < count:
        edges = drawn.integers(least, most, endpoint=True)
        starts = drawn.integers(0, np.array(grid) - edges, endpoint=True)
        for place in np.ndindex(*edges):
            if mask.sum() < count:
                mask[tuple(starts + place)] = True
    return mask


@pytest.mark.parametrize("grid", [(1, 1, 1), (2, 2, 2), (5, 5, 5), (8, 8, 8), (14, 3, 1)])
def test_block_masks_cover_the_requested_number_of_patches(grid: tuple[int, int, int]) -> None:
    whole = int(np.prod(grid))
    for count in {1, whole // 2 or 1, whole}:
        order = block_order(np.random.default_rng(0), grid, count)
        assert np.array_equal(order, block_order(np.random.default_rng(0), grid, whole)[:count])
        mask = np.zeros(whole, dtype=bool)
        mask[order] = True
        assert np.array_equal(mask.reshape(grid), covered_by_hand(np.random.default_rng(0), grid, count))


def test_paths_are_dropped_by_the_linear_rule_and_keep_the_expectation() -> None:
    scales = path_scales(0, 3, np.arange(4000), 2, 5, 0.4)
    assert scales.shape == (2, 4000, 5, 2)
    dropped = (scales == 0).float().mean(dim=(0, 1, 3))
    torch.testing.assert_close(dropped, torch.linspace(0, 0.4, 5), atol=0.02, rtol=0)
    torch.testing.assert_close(scales.mean(dim=(0, 1, 3)), torch.ones(5), atol=0.03, rtol=0)
    assert torch.equal(path_scales(0, 3, np.array([17]), 2, 5, 0.4)[:, 0], scales[:, 17])
    assert not torch.equal(path_scales(0, 4, np.arange(4000), 2, 5, 0.4), scales)


def test_directions_of_lejepa_have_length_1_and_depend_on_the_step_alone() -> None:
    settings = config(lejepa_weight=1, lejepa_slices=50, lejepa_width=7)
    directions = draw(settings, 3, np.array([3, 8])).parts["lejepa"].directions
    assert directions.shape == (7, 50)
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(50))
    assert directions.mean(dim=1).abs().max() < 0.25
    assert torch.equal(draw(settings, 3, np.array([5])).parts["lejepa"].directions, directions)
    assert not torch.equal(draw(settings, 4, np.array([3, 8])).parts["lejepa"].directions, directions)
