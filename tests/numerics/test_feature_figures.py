"""Feature statistics against NumPy, by plain loops and a singular value decomposition."""

import numpy as np
import pytest
import torch

from fmct_hpc.train.feature_figures import crop_likeness, effective_rank, retrieval, similarities


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_retrieval_counts_second_views_that_find_their_volume(generator: np.random.Generator) -> None:
    content = generator.normal(size=(30, 8))
    first, second = (3 + content + 0.8 * generator.normal(size=content.shape) for _ in range(2))
    volumes = np.arange(30)
    volumes[[4, 17]] = 2  # comes three times in this batch
    nearest = [max(range(30), key=lambda j: cosine(second[i], first[j])) for i in range(30)]
    hits = np.mean([volumes[neighbour] == volumes[i] for i, neighbour in enumerate(nearest)])
    share, chance = retrieval(*(torch.tensor(t) for t in (first, second, volumes)))
    assert share == pytest.approx(hits)
    assert chance == pytest.approx((27 + 3 * 3) / 30**2)
    assert 0.2 < share < 0.95, "neither none nor all: the figure is put to the test"


@pytest.mark.parametrize(("rows", "width"), [(50, 12), (5, 12)])
def test_effective_rank_is_rankme(generator: np.random.Generator, rows: int, width: int) -> None:
    features = generator.normal(size=(rows, width)) * np.geomspace(1, 1e-3, width) + 0.5
    values = np.linalg.svd(features, compute_uv=False)
    shares = values / values.sum() + 1e-7  # the paper's
    expected = np.exp(-(shares * np.log(shares)).sum())
    z = torch.tensor(features)
    assert effective_rank(z.T @ z) == pytest.approx(expected, rel=1e-4)


def test_effective_rank_of_known_matrices() -> None:
    orthogonal = torch.eye(16, dtype=torch.float64)[:6] * 3
    one = torch.ones(40, 1, dtype=torch.float64) @ torch.rand(1, 16, dtype=torch.float64)
    assert effective_rank(orthogonal.T @ orthogonal) == pytest.approx(6)
    assert effective_rank(one.T @ one) == pytest.approx(1, abs=1e-5)


def test_similarities_are_mean_cosines_within_a_view(generator: np.random.Generator) -> None:
    cls, patches = generator.normal(size=(3, 6)) + 1, generator.normal(size=(3, 5, 6)) + 1
    expected = [
        [
            np.mean([cosine(view[i], view[j]) for i in range(5) for j in range(5) if i != j]),
            np.mean([cosine(token, own) for token in view]),
        ]
        for view, own in zip(patches, cls, strict=True)
    ]
    np.testing.assert_allclose(similarities(torch.tensor(cls), torch.tensor(patches)), expected, rtol=1e-12)
    alone = similarities(torch.tensor(cls), torch.tensor(patches[:, :1]))
    assert torch.isnan(alone[:, 0]).all()
    assert torch.isfinite(alone[:, 1]).all()


def test_crop_likeness_is_a_correlation_over_views_of_two_volumes(generator: np.random.Generator) -> None:
    crops = generator.uniform(size=(2, 12, 4))
    crops[..., 3] = 0.5  # does not vary
    features = generator.normal(size=(2, 12, 8)) + crops @ generator.normal(size=(4, 8))
    volumes = np.arange(12)
    volumes[5] = 3
    deviations = crops.reshape(-1, 4).std(axis=0)[:3]
    pairs = [
        (
            cosine(features[1, i], features[0, j]),
            -np.linalg.norm((crops[1, i] - crops[0, j])[:3] / deviations),
        )
        for i in range(12)
        for j in range(12)
        if volumes[i] != volumes[j]
    ]
    actual = crop_likeness(*(torch.tensor(t) for t in (*features, crops, volumes)))
    assert actual == pytest.approx(np.corrcoef(np.array(pairs).T)[0, 1], abs=1e-9)


def test_crop_likeness_distinguishes_crops_from_content(generator: np.random.Generator) -> None:
    """Near 1 for features that encode the crop, near 0 for the volume, none for constant features."""
    crops = torch.tensor(generator.uniform(size=(2, 64, 6)))
    content = torch.tensor(generator.normal(size=(64, 6)))
    volumes = torch.arange(64)
    of_crop = crops - crops.mean(dim=(0, 1))
    assert crop_likeness(of_crop[0], of_crop[1], crops, volumes) > 0.6
    assert abs(crop_likeness(content, content, crops, volumes)) < 0.1
    assert np.isnan(crop_likeness(content, content, torch.full_like(crops, 0.5), volumes))
