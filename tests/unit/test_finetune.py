"""Fine-tuning learns, is deterministic, and does not use the labels of scored volumes."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.probe.finetune import (
    Classifier,
    Finetuned,
    Rows,
    augmented,
    finetune,
    parameter_groups,
    pooled_width,
    row_batches,
)
from fmct_hpc.probe.methods.finetune import FinetuneConfig
from shards import FmctError

VOLUMES, SIZE = 120, 16
MODEL = ModelConfig(patch_size=8, width=24, depth=2, heads=2, register_tokens=1)
ROWS = Rows(np.arange(60), np.arange(60, 80), np.arange(80, 120))


@pytest.fixture(scope="module")
def encoder() -> VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VisionTransformer(MODEL, 1, SIZE)


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, np.ndarray]:
    """Noise; a quarter of the volumes has a bright corner, and another task few labels."""
    rng = np.random.default_rng(0)
    views = rng.uniform(0, 0.3, (VOLUMES, 1, SIZE, SIZE, SIZE)).astype(np.float32)
    labels = np.zeros((VOLUMES, 2))
    labels[:, 0] = np.arange(VOLUMES) % 4 == 0
    views[labels[:, 0] == 1, 0, :8, :8] += 0.6
    labels[:, 1] = np.where(np.arange(VOLUMES) % 3, np.nan, labels[:, 0])
    return torch.from_numpy(views), labels


def tuned(encoder: VisionTransformer, data: tuple[torch.Tensor, np.ndarray], **changes: object) -> Finetuned:
    values: dict[str, object] = {"steps": 40, "batch": 16, "check_every": 10, "lr": 3e-3}
    return finetune(encoder, *data, ROWS, FinetuneConfig.model_validate(values | changes))


def test_finetuning_learns_on_missing_labels_and_repeats_itself(
    encoder: VisionTransformer, data: tuple[torch.Tensor, np.ndarray]
) -> None:
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    torch.manual_seed(1)
    first = tuned(encoder, data)
    assert roc_auc_score(data[1][ROWS.score, 0], first.scores[:, 0]) > 0.9
    assert first.step == max(first.checks, key=lambda check: (check.auc, -check.validation_loss)).step
    # Neither torch's generator nor the labels of scored volumes affect it.
    torch.manual_seed(2)
    blind = data[1].copy()
    blind[ROWS.score] = np.nan
    again = tuned(encoder, (data[0], blind))
    np.testing.assert_array_equal(first.scores, again.scores)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_rates_fall_from_head_to_embedding(encoder: VisionTransformer) -> None:
    config = FinetuneConfig(lr=1.0, layer_decay=0.5)
    model = Classifier(encoder, nn.Linear(pooled_width(encoder, config), 2), config)
    groups = parameter_groups(model, config)
    rates = {name: group["lr"] for (name, _), group in zip(model.named_parameters(), groups, strict=True)}
    assert rates["head.weight"] == rates["encoder.norm.weight"] == 1
    assert rates["encoder.blocks.1.mlp.0.weight"] == 0.5
    assert rates["encoder.blocks.0.mlp.0.weight"] == 0.25
    assert rates["encoder.embedding.weight"] == rates["encoder.prefix_tokens"] == 0.125
    assert {group["lr"] for group in parameter_groups(model, FinetuneConfig(lr=1.0, layer_decay=1))} == {1.0}


@pytest.mark.parametrize("count", [3, 20, 64])
def test_each_volume_is_drawn_once_per_round(count: int) -> None:
    config = FinetuneConfig(steps=15, batch=32)
    places = np.concatenate(list(row_batches(count, config)))
    assert len(places) == 15 * 32
    for start in range(0, len(places) - count, count):
        assert sorted(places[start : start + count]) == list(range(count))


def test_views_are_only_shifted_mirrored_and_brightened() -> None:
    views = torch.zeros(1, 1, 8, 8, 8)
    views[0, 0, 4, 4, 2] = 1
    config = FinetuneConfig(move=1, shift=0.0, flip_probability=0.5)
    places = {tuple(torch.nonzero(augmented(views, step, config))[0, 2:].tolist()) for step in range(400)}
    near, mirrored = {1, 2, 3}, {4, 5, 6}
    assert places == {(z, y, x) for z in (3, 4, 5) for y in (3, 4, 5) for x in near | mirrored}


def test_one_class_is_refused(encoder: VisionTransformer, data: tuple[torch.Tensor, np.ndarray]) -> None:
    with pytest.raises(FmctError, match="no task has both"):
        tuned(encoder, (data[0], np.zeros((VOLUMES, 2))))


def test_equal_areas_are_resolved_by_the_lowest_log_loss(
    encoder: VisionTransformer, data: tuple[torch.Tensor, np.ndarray]
) -> None:
    """One validation volume per class: all steps that rank both correctly have equal areas."""
    views, labels = data
    rows = Rows(np.arange(60), np.array([60, 61]), np.arange(80, 120))
    config = FinetuneConfig.model_validate({"steps": 60, "batch": 16, "check_every": 6, "lr": 3e-3})
    result = finetune(encoder, views, labels[:, :1], rows, config)
    best = [check for check in result.checks if check.auc == max(c.auc for c in result.checks)]
    assert len(best) > 1
    assert result.step == min(best, key=lambda check: check.validation_loss).step > best[0].step
