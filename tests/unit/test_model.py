import os
from functools import partialmethod
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.interpolate import RegularGridInterpolator
from torch._inductor import cpp_builder

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.views import Views
from fmct_hpc.engine_config import EngineConfig
from fmct_hpc.model.block import Block
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.decoder import MaeDecoder
from fmct_hpc.model.execution import require_compiler, set_execution
from fmct_hpc.model.heads import DinoHead
from fmct_hpc.model.patches import patchify, resize_positions, sincos_positions, unpatchify
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.objective.draws import draw, path_scales
from fmct_hpc.objective.ibot import Masked, block_order, masked_patches
from fmct_hpc.objective.koleo import Koleo
from fmct_hpc.objective.mae import keep_indices, reconstruct
from fmct_hpc.objective.registry import PARTS
from fmct_hpc.objective.student import Losses, Student, Teacher
from fmct_hpc.train.schedules import settings as scheduled
from shards.errors import FmctError

SIZES = {"width": 36, "depth": 2, "heads": 3, "prototypes": 24, "head_hidden": 32, "head_bottleneck": 16}
DECODER = {"decoder_width": 24, "decoder_depth": 1, "decoder_heads": 2, "patch_size": 4}


def config(model: dict[str, object] | None = None, **objective: object) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "data": {"path": "unused", "view_size": 12},
            "model": {**SIZES, **DECODER, **(model or {})},
            "objective": objective,
        }
    )


@pytest.fixture
def encoder() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(config().model, channels=3, view_size=12).double()


def views(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(*shape, 3, 12, 12, 12, generator=generator)


def seen(size: int = 12) -> Views:
    """Two global and two local views of two volumes, the local ones of `size`³ voxels."""
    made = views(4, 2)
    return Views(made[:2], made[2:, ..., :size, :size, :size])


def test_unpatchify_inverts_patchify_in_the_order_of_a_convolution() -> None:
    x = views(2)
    assert torch.equal(unpatchify(patchify(x, 4), 4, 12), x)
    weight = torch.rand(5, 3, 4, 4, 4)
    convolved = F.conv3d(x, weight, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patchify(x, 4) @ weight.flatten(1).T, convolved)


def test_anisotropic_patches_equal_a_convolution_and_are_inverted() -> None:
    x = torch.rand(2, 3, 4, 15, 12, generator=torch.Generator().manual_seed(1))
    patches = patchify(x, (2, 5, 4))
    assert torch.equal(unpatchify(patches, (2, 5, 4), x.shape[2:]), x)
    weight = torch.rand(5, 3, 2, 5, 4)
    convolved = F.conv3d(x, weight, stride=(2, 5, 4)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patches @ weight.flatten(1).T, convolved)
    with pytest.raises(ValueError, match="multiple of the patch's"):
        patchify(x, (2, 4, 4))


def test_positions_of_an_anisotropic_grid_equal_those_in_a_cube() -> None:
    cube = sincos_positions(5, 36).reshape(5, 5, 5, 36)
    assert torch.equal(sincos_positions((2, 5, 3), 36), cube[:2, :, :3].flatten(0, 2))


def test_forward_equals_a_rebuild_from_torch_parts(encoder: VisionTransformer) -> None:
    x = views(2).double()
    patches = patchify((x - encoder.standardise.mean) / encoder.standardise.std, 4)
    tokens = patches @ encoder.embedding.weight.T + encoder.embedding.bias + sincos_positions(3, 36)
    tokens = torch.cat([encoder.prefix_tokens.expand(2, -1, -1), tokens], 1)
    for block in encoder.blocks:
        assert isinstance(block, Block)
        first, last = block.mlp[0], block.mlp[2]
        assert isinstance(first, torch.nn.Linear)
        assert isinstance(last, torch.nn.Linear)
        attention = torch.nn.MultiheadAttention(36, 3, batch_first=True).double()
        attention.in_proj_weight.data = block.attention.qkv.weight.data
        attention.in_proj_bias.data = block.attention.qkv.bias.data
        attention.out_proj.weight.data = block.attention.projection.weight.data
        attention.out_proj.bias.data = block.attention.projection.bias.data
        y = F.layer_norm(tokens, (36,), block.attention_norm.weight, block.attention_norm.bias, 1e-5)
        tokens = tokens + attention(y, y, y)[0]
        y = F.layer_norm(tokens, (36,), block.mlp_norm.weight, block.mlp_norm.bias, 1e-5)
        hidden = F.gelu(y @ first.weight.T + first.bias)
        tokens = tokens + hidden @ last.weight.T + last.bias
    expected = F.layer_norm(tokens, (36,), encoder.norm.weight, encoder.norm.bias, 1e-6)
    torch.testing.assert_close(encoder(x), expected, atol=1e-10, rtol=0)


def test_keeping_all_patches_in_another_order_changes_nothing(encoder: VisionTransformer) -> None:
    x = views(2).double()
    keep = torch.stack([torch.randperm(27, generator=torch.Generator().manual_seed(s)) for s in (0, 1)])
    whole, permuted = encoder(x), encoder(x, keep)
    torch.testing.assert_close(permuted[:, : encoder.prefix], whole[:, : encoder.prefix])
    for row, order in enumerate(keep):
        torch.testing.assert_close(permuted[row, encoder.prefix :], whole[row, encoder.prefix :][order])


def test_masked_voxels_have_no_influence(encoder: VisionTransformer) -> None:
    x = views(1).double()
    keep = torch.tensor([[0, 5, 13]])
    hidden = torch.ones(1, 27, dtype=torch.bool).scatter(1, keep, False)
    patches = patchify(x, 4)
    other = unpatchify(torch.where(hidden.unsqueeze(-1), torch.rand_like(patches), patches), 4, 12)
    assert torch.equal(encoder(x, keep), encoder(other, keep))
    assert not torch.equal(encoder(x), encoder(other))


def test_positions_are_distinct_and_left_over_channels_zero() -> None:
    positions = sincos_positions(4, 32)
    assert torch.cdist(positions, positions).add(torch.eye(64)).min() > 0.1
    assert positions[:, 30:].abs().max() == 0


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


def test_a_dropped_path_skips_the_block_and_a_scale_of_one_changes_nothing() -> None:
    torch.manual_seed(0)
    encoder = VisionTransformer(config().model, channels=3, view_size=12)
    x = views(2)
    ones = torch.ones(2, 2, 2)
    assert torch.equal(encoder(x, path_scales=ones), encoder(x))
    ones[1] = 0
    half = encoder(x, path_scales=ones)
    assert torch.equal(half[0], encoder(x)[0])
    patches = patchify(encoder.standardise(x), 4)
    tokens = torch.cat([encoder.prefix_tokens, encoder.embedding(patches)[1] + encoder.positions])
    torch.testing.assert_close(half[1], encoder.norm(tokens))


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_views_of_another_size_get_interpolated_positions(positions: str) -> None:
    torch.manual_seed(0)
    encoder = VisionTransformer(config({"positions": positions}).model, channels=3, view_size=12)
    assert ("positions" in encoder.state_dict()) == (positions == "learned")
    x = torch.rand(1, 3, 20, 16, 12)
    assert encoder(x).shape == (1, encoder.prefix + 5 * 4 * 3, 36)
    assert encoder.positions is not None
    field = encoder.positions.detach().reshape(3, 3, 3, 36).numpy()
    places = [np.clip((np.arange(n) + 0.5) * 3 / n - 0.5, 0, 2) for n in (5, 4, 3)]
    expected = RegularGridInterpolator(3 * [np.arange(3)], field)(
        np.stack(np.meshgrid(*places, indexing="ij"), -1)
    )
    ours = resize_positions(encoder.positions, 3, (5, 4, 3)).detach()
    np.testing.assert_allclose(ours, expected.reshape(60, 36), atol=1e-6)
    with pytest.raises(ValueError, match=r"edge must be a multiple of"):
        encoder(torch.rand(1, 3, 12, 12, 13))


@pytest.mark.parametrize(("patch", "size", "other"), [(12, 96, 120), (16, 128, 96)])
def test_patches_of_12_and_16_accept_several_view_sizes(patch: int, size: int, other: int) -> None:
    model = ModelConfig.model_validate({**SIZES, **DECODER, "depth": 1, "patch_size": patch})
    encoder = VisionTransformer(model, 3, size)
    for edge in (size, other):
        tokens = encoder(torch.rand(1, 3, edge, edge, edge))
        assert tokens.shape == (1, encoder.prefix + (edge // patch) ** 3, 36)


def test_registers_layer_scale_and_qkv_bias_are_optional() -> None:
    bare = VisionTransformer(config({"register_tokens": 0, "qkv_bias": False}).model, 3, 12)
    assert bare(views(1)).shape == (1, 1 + 27, 36)
    assert not any("qkv.bias" in name or "scale" in name for name in bare.state_dict())
    scaled = VisionTransformer(config({"layer_scale": 1e-5}).model, 3, 12)
    assert sum("scale.factor" in name for name in scaled.state_dict()) == 4
    assert (scaled(views(1))[:, 1:5] - scaled.norm(scaled.prefix_tokens[1:])).abs().max() < 1e-2


ROTARY = {"positions": "rope", "rope_jitter": {"shift": 0.1, "stretch": 1.2, "rescale": 2}}


@pytest.mark.parametrize("positions", [{}, ROTARY], ids=["added", "rotary"])
def test_recomputing_activations_changes_neither_losses_nor_gradients(positions: dict[str, object]) -> None:
    settings = config({"drop_path": 0.3, **positions}, ibot_weight=1, koleo_weight=0.1)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        student = Student(settings)
        set_execution(student, EngineConfig(activation_checkpointing=checkpointing))
        forward(student, settings).total.backward()
        gradients.append({name: gradient_of(p) for name, p in student.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


@pytest.mark.parametrize("positions", [{}, ROTARY], ids=["added", "rotary"])
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # TorchDynamo reads it while it traces
def test_compiled_blocks_compute_the_same(
    monkeypatch: pytest.MonkeyPatch, positions: dict[str, object]
) -> None:
    if "FMCT_LONG_TESTS" not in os.environ:  # without C++: what is traced, forward and backward, is the same
        traced = partialmethod(torch.nn.Module.compile, backend="aot_eager", fullgraph=True)
        monkeypatch.setattr(torch.nn.Module, "compile", traced)
    settings = config({"drop_path": 0.2, **positions})
    gradients = []
    for compiled in (False, True):
        torch.manual_seed(0)
        student = Student(settings)
        names = list(student.state_dict())
        set_execution(student, EngineConfig(compile=compiled))
        assert list(student.state_dict()) == names
        forward(student, settings, size=8).total.backward()
        gradients.append([parameter.grad for parameter in student.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    require_compiler(EngineConfig())
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    cpp_builder.cpp_compiler_search.cache_clear()
    with pytest.raises(FmctError, match=r"engine\.compile: no C\+\+ compiler"):
        require_compiler(EngineConfig(compile=True))


def gradient_of(parameter: torch.Tensor) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


def forward(
    student: Student,
    settings: TrainConfig,
    freeze: bool = False,
    step: int = 0,
    weights: dict[str, float] | None = None,
    size: int = 12,
) -> Losses:
    """The student's losses on fixed views and targets; the local views are of `size`³ voxels."""
    draws = draw(settings, step, np.array([3, 8]))
    generator = torch.Generator().manual_seed(2)
    targets = {"dino": torch.softmax(torch.rand(2, 2, 24, generator=generator) * 9, -1)}
    if "ibot" in draws.parts:
        hidden = len(draws.parts["ibot"].weights)
        targets["ibot"] = torch.softmax(torch.rand(hidden, 24, generator=generator) * 9, -1)
    now = scheduled(settings, step)._replace(freeze_prototypes=freeze)
    losses: Losses = student(seen(size), targets, draws, now._replace(weights=weights or now.weights))
    return losses


@pytest.mark.parametrize(
    ("parts", "shared"),
    [
        ({"dino"}, False),
        ({"mae"}, False),
        ({"dino", "mae"}, False),
        ({"ibot"}, False),
        ({"mae", "koleo"}, False),
        ({"lejepa"}, False),
        ({"dino", "ibot", "koleo", "mae", "lejepa"}, False),
        ({"dino", "ibot", "koleo", "mae"}, True),
    ],
)
def test_every_parameter_is_trained(parts: set[str], shared: bool) -> None:
    weights = {f"{kind.name}_weight": 0.5 if kind.name in parts else 0 for kind in PARTS}
    model = {"drop_path": 0.2, "layer_scale": 0.1, "positions": "learned"}
    settings = config(model, **weights, ibot_shared_head=shared, ibot_mask_probability=1, lejepa_hidden=32)
    torch.manual_seed(0)
    student = Student(settings)
    assert hasattr(student, "head") == ("dino" in parts)
    assert hasattr(student, "mask_token") == ("ibot" in parts)
    assert hasattr(student, "ibot_head") == ("ibot" in parts and not shared)
    assert hasattr(student, "decoder") == ("mae" in parts)
    assert hasattr(student, "lejepa_projector") == ("lejepa" in parts)
    losses = forward(student, settings)
    assert set(losses.parts) == parts
    losses.total.backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    whole = sum(loss.item() for loss in losses.parts.values())
    assert losses.total.item() == pytest.approx(0.5 * whole)
    later = forward(student, settings, weights=dict.fromkeys(parts, 0.25))
    assert later.total.item() == pytest.approx(0.25 * whole)


def test_two_parts_with_modules_of_one_name_are_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second would replace the first, and its weights in checkpoints."""
    monkeypatch.setattr(Koleo, "modules", lambda _: {"head": torch.nn.Linear(1, 1)})
    with pytest.raises(AssertionError, match="koleo builds head"):
        Student(config(koleo_weight=1))


def test_directions_of_lejepa_have_length_1_and_depend_on_the_step_alone() -> None:
    settings = config(lejepa_weight=1, lejepa_slices=50, lejepa_width=7)
    directions = draw(settings, 3, np.array([3, 8])).parts["lejepa"].directions
    assert directions.shape == (7, 50)
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(50))
    assert directions.mean(dim=1).abs().max() < 0.25
    assert torch.equal(draw(settings, 3, np.array([5])).parts["lejepa"].directions, directions)
    assert not torch.equal(draw(settings, 4, np.array([3, 8])).parts["lejepa"].directions, directions)


def test_frozen_prototypes_get_a_gradient_of_zero_and_give_the_same_loss() -> None:
    settings = config(ibot_weight=1)
    torch.manual_seed(0)
    student = Student(settings)
    frozen = forward(student, settings, freeze=True).total
    assert frozen.item() == forward(student, settings).total.item()
    frozen.backward()
    for head in (student.head, student.ibot_head):
        assert isinstance(head, DinoHead)
        assert gradient_of(head.prototypes.weight).abs().max() == 0
        assert gradient_of(head.get_parameter("mlp.0.weight")).abs().max() > 0


def test_teacher_with_the_students_weights_gives_its_logits() -> None:
    settings = config(ibot_weight=1)
    torch.manual_seed(0)
    student = Student(settings)
    teacher = Teacher(settings)
    state = student.state_dict()
    teacher.load_state_dict({name: state[name] for name in teacher.state_dict()})
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    draws = draw(settings, 0, np.array([3, 8, 9]))
    assert draws.parts["ibot"].counts.any()
    logits = teacher(views(2, 3), draws, scheduled(settings, 0))
    tokens = student.encoder(views(2, 3).flatten(0, 1)).unflatten(0, (2, 3))
    torch.testing.assert_close(logits["dino"], student.get_submodule("head")(tokens[:, :, 0]))
    hidden = tokens[:, :, student.encoder.prefix :][draws.parts["ibot"].where(None)]
    torch.testing.assert_close(logits["ibot"], student.get_submodule("ibot_head")(hidden))


def test_the_student_does_not_see_patches_masked_by_ibot() -> None:
    settings = config(ibot_weight=1, ibot_mask_probability=1, mae_weight=0)
    torch.manual_seed(0)
    student = Student(settings)
    draws = draw(settings, 0, np.array([3, 8]))
    whole, local = seen()
    patches = patchify(whole.flatten(0, 1), 4)
    hidden = draws.parts["ibot"].where(None).flatten(0, 1).unsqueeze(-1)
    changed = unpatchify(torch.where(hidden, torch.rand_like(patches), patches), 4, 12).unflatten(0, (2, 2))
    ours, theirs = (student.encode(Views(given, local), draws)[:2] for given in (whole, changed))
    assert all(torch.equal(mine, yours) for mine, yours in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("size", [4, 8, 12])
@pytest.mark.parametrize("positions", ["sincos", "learned", "rope"])
def test_every_view_of_any_size_is_encoded_independently(size: int, positions: str) -> None:
    settings = config({"drop_path": 0.4, "positions": positions}, ibot_weight=1, ibot_mask_probability=1)
    torch.manual_seed(0)
    student, given = Student(settings), seen(size)
    draws = draw(settings, 0, np.array([3, 8]))
    tokens, local, _ = student.encode(given, draws)
    assert (tokens.shape, local.shape) == ((2, 2, 5 + 27, 36), (2, 2, 5 + (size // 4) ** 3, 36))
    assert given.local is not None
    assert draws.path_scales is not None
    for number, view in enumerate([*given.whole, *given.local]):
        where = draws.parts["ibot"].where(None)
        masked = (where[number], student.mask_token) if number < 2 else None
        alone = student.encoder(view, masked=masked, path_scales=draws.path_scales[number])
        torch.testing.assert_close(tokens[number] if number < 2 else local[number - 2], alone)


def test_local_views_of_fewer_voxels_train_everything_with_or_without_recomputing() -> None:
    weights = dict.fromkeys(("ibot_weight", "koleo_weight", "dino_weight", "mae_weight"), 0.5)
    settings = config({"drop_path": 0.2, "positions": "learned"}, **weights, ibot_mask_probability=1)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        student = Student(settings)
        set_execution(student, EngineConfig(activation_checkpointing=checkpointing))
        small = forward(student, settings, size=8)
        small.total.backward()
        gradients.append({name: gradient_of(p) for name, p in student.named_parameters()})
        whole = forward(student, settings)
        assert small.parts["dino"] != whole.parts["dino"]
        for part in ("ibot", "koleo", "mae"):  # which read global views
            torch.testing.assert_close(small.parts[part], whole.parts[part])
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 0, name
        assert torch.equal(gradient, gradients[1][name]), name


def test_an_anisotropic_view_is_reconstructed_patch_by_patch() -> None:
    settings = TrainConfig.model_validate(
        {
            "data": {"path": "unused", "view_size": (4, 12, 8)},
            "model": {**SIZES, **DECODER, "patch_size": (2, 4, 4)},
            "objective": {"ibot_weight": 1},
        }
    )
    torch.manual_seed(0)
    student = Student(settings)
    generator = torch.Generator().manual_seed(1)
    x, keep = torch.rand(1, 3, 4, 12, 8, generator=generator), torch.tensor([[2, 9]])
    made = reconstruct(student, x, keep, normalised=True)
    assert made.shape == x.shape
    for d, h, w in ((0, 4, 0), (2, 4, 4)):  # patches 2 and 9 of a grid of 2 x 3 x 2
        where = (..., slice(d, d + 2), slice(h, h + 4), slice(w, w + 4))
        assert torch.equal(made[where], x[where])
    assert (made == x).float().mean() < 0.2
    draws = draw(settings, 0, np.array([3, 8]))
    masked = draws.parts["ibot"]
    assert masked.where(None).shape == (2, 2, 12)
    targets = {"dino": torch.rand(2, 2, 24), "ibot": torch.rand(len(masked.weights), 24)}
    views = Views(torch.rand(2, 2, 3, 4, 12, 8), torch.rand(2, 2, 3, 4, 8, 4))
    losses = student(views, targets, draws, scheduled(settings, 0))
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_reconstruction_keeps_visible_patches_and_scales_the_others() -> None:
    torch.manual_seed(0)
    student = Student(config())
    x, keep = views(1), torch.tensor([[2, 9]])
    patches = patchify(reconstruct(student, x, keep, normalised=True), 4)
    assert torch.equal(patches[:, [2, 9]], patchify(x, 4)[:, [2, 9]])
    torch.testing.assert_close(patches.mean(-1), patchify(x, 4).mean(-1), atol=0.3, rtol=0)


def test_a_joint_model_learns_in_a_few_steps() -> None:
    torch.manual_seed(0)
    settings = config(dino_weight=0)
    student = Student(settings)
    optimizer = torch.optim.AdamW(student.parameters(), 3e-3)
    given, losses = seen(), []
    for step in range(40):
        ramp = Views(*(x * torch.linspace(0, 1, 12) for x in given if x is not None))
        drawn, now = draw(settings, step, np.arange(2)), scheduled(settings, step)
        loss = student(ramp, {}, drawn, now).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


@pytest.mark.parametrize("width", [64, 192, 384, 768, 1024])
def test_layers_are_initialised_with_the_spread_of_the_reference(width: int) -> None:
    """The reference's blocks are plain nn.Linear layers, its prototypes too: PyTorch's own defaults."""
    torch.manual_seed(0)
    model = ModelConfig.model_validate(
        {"width": width, "depth": 1, "heads": 4, "head_hidden": 2 * width, "head_bottleneck": width // 2}
        | {"prototypes": 512, "patch_size": 4, "decoder_width": width, "decoder_depth": 1}
    )
    modules = (VisionTransformer(model, 3, 8), DinoHead(model), MaeDecoder(model, 3, 8))
    weights = {
        f"{type(module).__name__}.{name}": parameter
        for module in modules
        for name, parameter in module.named_parameters()
        if parameter.ndim == 2 and "tokens" not in name and "prefix_positions" not in name
    }
    assert len(weights) == 5 + 4 + 6
    for name, weight in weights.items():
        theirs = torch.nn.Linear(weight.shape[1], weight.shape[0]).weight
        assert weight.std().item() == pytest.approx(theirs.std().item(), rel=0.05), name
        assert weight.abs().max().item() <= weight.shape[1] ** -0.5
    fixed = VisionTransformer(model.model_copy(update={"initialisation": "fixed"}), 3, 8)
    assert fixed.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("constants", [(0.5, 0.3), ((0.2, 0.5, 0.4), (0.3, 0.1, 0.2))])
def test_input_is_standardised_window_by_window(constants: Any) -> None:
    """The same weights on manually standardised input, without constants in the model."""
    torch.manual_seed(0)
    mean, std = constants
    encoder = VisionTransformer(config({"input_mean": mean, "input_std": std}).model, 3, 12)
    plain = VisionTransformer(config({"input_mean": 0, "input_std": 1}).model, 3, 12)
    plain.load_state_dict(encoder.state_dict())  # the constants are in no checkpoint
    x = views(2)
    by_hand = (x - torch.tensor(mean).expand(3)[:, None, None, None]) / torch.tensor(std).expand(3)[
        :, None, None, None
    ]
    torch.testing.assert_close(encoder(x), plain(by_hand))
    torch.testing.assert_close(encoder.standardise.inverse(encoder.standardise(x)), x)
    assert plain.standardise(x) is x
