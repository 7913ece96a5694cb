"""Rotary positions against NumPy's complex numbers, and their relative property."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.views import Views
from fmct_hpc.model.attention import cls_attention
from fmct_hpc.model.block import Block
from fmct_hpc.model.rope import patch_coordinates, rotate, rotation
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.objective.draws import Draws, draw, rope_boxes
from fmct_hpc.objective.registry import ObjectiveConfig
from fmct_hpc.objective.student import Student, Teacher
from fmct_hpc.train.schedules import settings as scheduled

HEAD = 20
"""Channels per head: 18 are rotated, 2 are not."""


def config(jitter: dict[str, float] | None = None, /, **model: object) -> TrainConfig:
    sizes = {"width": 2 * HEAD, "depth": 2, "heads": 2, "register_tokens": 1, "patch_size": 4}
    heads = {"prototypes": 24, "head_hidden": 32, "head_bottleneck": 16}
    decoder = {"decoder_width": 24, "decoder_depth": 1, "decoder_heads": 2}
    rope = {"positions": "rope", "rope_jitter": jitter or {}}
    return TrainConfig.model_validate(
        {
            "data": {"path": "unused", "view_size": 12, "local_views": 0},
            "model": {**sizes, **heads, **decoder, **rope, **model},
            "objective": {"dino_weight": 0},
        }
    )


def encoder(**model: object) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(config(**model).model, 3, 12).double()


def numpy_turned(x: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """x (..., n, d) by DINOv3's formula in three dimensions: pairs are complex numbers, times e^iθ."""
    count = x.shape[-1] // 6
    periods = 100.0 ** (np.arange(count) / count)
    angles = np.concatenate([2 * np.pi * coordinates[:, [axis]] / periods for axis in range(3)], axis=1)
    turned = (x[..., : 3 * count] + 1j * x[..., 3 * count : 6 * count]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag, x[..., 6 * count :]], axis=-1)


def grid_coordinates(*grid: int) -> np.ndarray:
    return (2 * np.array(list(np.ndindex(grid))) + 1) / np.array(grid) - 1


def test_coordinates_are_centres_of_patches_and_each_axis_spans_the_box() -> None:
    made = patch_coordinates((2, 5, 3), torch.device("cpu"))
    np.testing.assert_allclose(made, grid_coordinates(2, 5, 3), atol=1e-6)


def test_only_patch_tokens_are_rotated_in_their_rope_channels() -> None:
    x = torch.randn(2, 3, 2 + 30, HEAD, generator=torch.Generator().manual_seed(0))
    turns = rotation(patch_coordinates((2, 5, 3), x.device), HEAD)
    made = rotate(x, turns)
    assert torch.equal(made[:, :, :2], x[:, :, :2])
    assert torch.equal(made[..., 18:], x[..., 18:])
    expected = numpy_turned(x[:, :, 2:].double().numpy(), grid_coordinates(2, 5, 3))
    np.testing.assert_allclose(made[:, :, 2:], expected, atol=1e-5)
    torch.testing.assert_close(made.norm(dim=-1), x.norm(dim=-1))
    low = x.bfloat16()
    assert torch.equal(rotate(low, turns), rotate(low.float(), turns).bfloat16())


def test_scores_depend_on_differences_of_coordinates_alone() -> None:
    query, key = torch.randn(2, 1, 1, 50, HEAD, generator=torch.Generator().manual_seed(0)).double()
    where = torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(1)).double()

    def scores(shift: torch.Tensor) -> torch.Tensor:
        turned = [rotate(x, rotation(c + shift, HEAD)) for x, c in zip((query, key), where, strict=True)]
        return (turned[0] * turned[1]).sum(-1)

    moved = scores(torch.tensor([0.3, -0.7, 0.2]).double())
    torch.testing.assert_close(moved, scores(torch.zeros(3).double()), atol=1e-5, rtol=0)
    assert (moved - (query * key).sum(-1)).abs().max() > 0.1


def test_an_encoder_equals_the_plain_one_with_rotated_queries_and_keys() -> None:
    rotary = encoder()
    assert rotary.positions is None
    assert not any("positions" in name for name in rotary.state_dict())
    x = torch.rand(2, 3, 12, 8, 16).double()
    coordinates = grid_coordinates(3, 2, 4)
    tokens = rotary.embed_patches(x, None, None)
    for block in rotary.blocks:
        assert isinstance(block, Block)
        qkv = block.attention.qkv(block.attention_norm(tokens)).detach().numpy()
        query, key, value = qkv.reshape(2, -1, 3, 2, HEAD).transpose(2, 0, 3, 1, 4)
        for part in (query, key):
            part[:, :, 2:] = numpy_turned(part[:, :, 2:], coordinates)
        weights = np.exp(query @ key.swapaxes(-1, -2) / np.sqrt(HEAD))
        attended = weights / weights.sum(-1, keepdims=True) @ value
        attended = torch.from_numpy(attended.transpose(0, 2, 1, 3).reshape(2, -1, 2 * HEAD))
        tokens = tokens + block.attention.projection(attended)
        tokens = tokens + block.mlp(block.mlp_norm(tokens))
    expected = rotary.norm(tokens)
    torch.testing.assert_close(rotary(x), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(rotary.at_blocks(x, [1])[0], expected, atol=1e-5, rtol=0)
    seen = weights[:, :, 0] / weights[:, :, 0].sum(-1, keepdims=True)
    np.testing.assert_allclose(cls_attention(rotary, x).flatten(2), seen[:, :, 2:], atol=1e-6)


def test_kept_patches_keep_their_positions() -> None:
    rotary, x = encoder(), torch.rand(2, 3, 12, 12, 12).double()
    keep = torch.stack([torch.randperm(27, generator=torch.Generator().manual_seed(s)) for s in (0, 1)])
    whole, permuted = rotary(x), rotary(x, keep)
    torch.testing.assert_close(permuted[:, :2], whole[:, :2])
    for row, order in enumerate(keep):
        torch.testing.assert_close(permuted[row, 2:], whole[row, 2:][order])


def test_boxes_are_drawn_by_step_within_their_limits() -> None:
    settings = config({"shift": 0.25, "stretch": 1.5, "rescale": 2})
    drawn = torch.stack([boxes_of(settings, step) for step in range(400)])
    factor, offset = drawn[:, :, 0], drawn[:, :, 1]
    assert (factor.log().abs() <= np.log(3) + 1e-6).all()
    assert factor.log().abs().max() > 0.9 * np.log(3)
    np.testing.assert_allclose(factor.log().mean(), 0, atol=0.05)
    assert 0.24 < (offset / factor).abs().max() <= 0.25 + 1e-6
    assert torch.equal(drawn[7], boxes_of(settings, 7))
    reseeded = settings.model_copy(update={"run": settings.run.model_copy(update={"seed": 6})})
    assert not torch.equal(drawn[7], boxes_of(reseeded, 7))
    assert drawn[0].unique().numel() == drawn[0].numel(), "each block has its own"
    one = boxes_of(config({"rescale": 2}), 7)
    assert torch.equal(one[:, 0, :1].expand(2, 3), one[:, 0])
    assert not one[:, 1].any()
    assert rope_boxes(config(), 7) is None


def boxes_of(settings: TrainConfig, step: int) -> torch.Tensor:
    drawn = rope_boxes(settings, step)
    assert drawn is not None
    return drawn


def test_only_student_passes_are_jittered() -> None:
    settings = config({"shift": 0.1, "stretch": 1.2, "rescale": 2})
    drawn, now = draw(settings, 0, np.array([3, 8])), scheduled(settings, 0)
    boxes = boxes_of(settings, 0)
    for drawn_boxes in (drawn.rope_boxes, drawn.parts["mae"].rope_boxes):
        torch.testing.assert_close(drawn_boxes, boxes, rtol=0, atol=0)

    def with_boxes(given: torch.Tensor | None) -> Draws:
        parts = {"mae": drawn.parts["mae"]._replace(rope_boxes=given)}
        return drawn._replace(parts=parts, rope_boxes=given)

    torch.manual_seed(0)
    student, views = Student(settings), torch.rand(2, 2, 3, 12, 12, 12)
    unit = torch.stack([torch.ones(2, 3), torch.zeros(2, 3)], dim=1)
    losses = [student(Views(views, None), {}, with_boxes(given), now).total for given in (None, unit, boxes)]
    torch.testing.assert_close(losses[0], losses[1])
    assert losses[2] != losses[0]
    whole, _, _ = student.encode(Views(views, None), drawn)
    torch.testing.assert_close(whole[0], student.encoder(views[0], rope_boxes=boxes))
    assert not torch.equal(whole[0], student.encoder(views[0]))
    assert isinstance(student.encoder, VisionTransformer)
    turns = student.encoder.turns(views[0], None, boxes)
    assert turns is not None
    for (factor, offset), made in zip(boxes, turns, strict=True):
        moved = patch_coordinates((3, 3, 3), views.device) * factor + offset
        torch.testing.assert_close(made, rotation(moved, HEAD))
    teaching = config({"rescale": 2}).model_copy(update={"objective": ObjectiveConfig()})
    taught = Teacher(teaching)
    taught.encoder.load_state_dict(student.encoder.state_dict())
    logits = taught(views, draw(teaching, 0, np.array([3, 8])), scheduled(teaching, 0))["dino"]
    torch.testing.assert_close(logits[0], taught.get_submodule("head")(student.encoder(views[0])[:, 0]))


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ({"width": 20, "heads": 4}, "at least 6 times"),
        ({"positions": "sincos", "rope_jitter": {"rescale": 2}}, "model.rope_jitter"),
        ({"rope_jitter": {"rescale": 0.5}}, "rope_jitter.rescale"),
    ],
)
def test_impossible_rope_settings_are_refused(model: dict[str, object], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        config(**model)


def test_an_encoder_without_rope_is_recorded_as_before() -> None:
    plain = config(positions="sincos").model
    assert "rope_jitter" not in plain.recorded()
    assert config({"rescale": 2}).model.recorded()["rope_jitter"] == {"rescale": 2.0}
