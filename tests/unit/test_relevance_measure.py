"""Figures of relevance maps against masks, and their means over patients."""

import numpy as np
import pytest

from fmct_hpc.relevance.measure import Truth, means
from fmct_hpc.relevance.patch_grid import PatchGrid


def test_figures_of_a_map_against_a_mask() -> None:
    """Computed by voxels on a fine grid: a lesion in one and a half patches."""
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])[:, [2, 1, 0, 3]]
    patches = PatchGrid(np.full(3, -0.5), np.full(3, 12.0), (3, 3, 3), affine)
    mask = np.zeros((12, 12, 12), bool)
    mask[4:8, 4:8, 4:10] = True
    points: np.ndarray = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
    truth = Truth.of(points, 8.0, patches)
    assert truth.filled[1, 1].tolist() == pytest.approx([0, 1, 0.5])
    assert truth.filled.sum() == pytest.approx(1.5)
    values = np.random.default_rng(0).normal(size=(3, 3, 3)).astype(np.float32)
    blocks = np.maximum(patches.on_volume(values, (12, 12, 12)), 0)
    share, pointed = truth.measure(values, 4.0)
    assert share == pytest.approx(blocks[mask].sum() / blocks.sum())
    at = np.unravel_index(values.argmax(), values.shape)
    middle = np.array(at) * 4 + 1.5
    away = np.linalg.norm(np.argwhere(mask) - middle, axis=1).min() * 2
    assert truth.distance_mm[at] == pytest.approx(away)
    assert pointed == (away <= 4.0)
    random = truth.of_random(4.0)
    drawn = [
        truth.measure(np.random.default_rng(i).random((3, 3, 3)).astype(np.float32), 4.0) for i in range(400)
    ]
    assert random == pytest.approx(np.mean(drawn, axis=0), abs=0.06)
    assert truth.greatest(4.0) == (1, 1)
    assert truth.measure(-np.ones((3, 3, 3), np.float32), 4.0) == (0, 0)


def test_means_resample_patients() -> None:
    generator = np.random.default_rng(0)
    figures, other = generator.random(40), generator.random(40)
    patients = np.arange(40) // 2
    own, others = means(np.stack([figures, other], axis=1), patients, 4000)
    value, gain = own.interval(0.95), (own - others).interval(0.95)
    by_patient = (figures - other).reshape(20, 2).mean(axis=1)
    deviation = by_patient.std() / np.sqrt(20)
    assert value.value == pytest.approx(figures.mean())
    assert gain.value == pytest.approx((figures - other).mean())
    assert [gain.low, gain.high] == pytest.approx(gain.value + 1.96 * deviation * np.array([-1, 1]), abs=0.02)
