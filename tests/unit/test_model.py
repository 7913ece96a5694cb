import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fmct_hpc.config import TrainConfig
from fmct_hpc.model.patches import patchify, sincos_positions, unpatchify
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.objective.mask import keep_indices
from fmct_hpc.objective.student import Student, Teacher


def config(**objective: float) -> TrainConfig:
    sizes = {"width": 36, "depth": 2, "heads": 3, "prototypes": 24, "head_hidden": 32, "head_bottleneck": 16}
    decoder = {"decoder_width": 24, "decoder_depth": 1, "decoder_heads": 2, "patch_size": 4}
    return TrainConfig.model_validate(
        {"data": {"path": "unused", "view_size": 12}, "model": {**sizes, **decoder}, "objective": objective}
    )


@pytest.fixture
def encoder() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(config().model, channels=3, view_size=12).double()


def views(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(*shape, 3, 12, 12, 12, generator=generator)


def test_patchify_is_undone_and_its_order_is_that_of_a_convolution() -> None:
    x = views(2)
    assert torch.equal(unpatchify(patchify(x, 4), 4, 3), x)
    weight = torch.rand(5, 3, 4, 4, 4)
    convolved = F.conv3d(x, weight, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patchify(x, 4) @ weight.flatten(1).T, convolved)


def test_forward_equals_a_rebuild_from_torch_parts(encoder: VisionTransformer) -> None:
    x = views(2).double()
    tokens = patchify(x, 4) @ encoder.embedding.weight.T + encoder.embedding.bias + sincos_positions(3, 36)
    tokens = torch.cat([encoder.prefix_tokens.expand(2, -1, -1), tokens], 1)
    for block in encoder.blocks:
        attention = torch.nn.MultiheadAttention(36, 3, batch_first=True).double()
        attention.in_proj_weight.data = block.attention.qkv.weight.data
        attention.in_proj_bias.data = block.attention.qkv.bias.data
        attention.out_proj = block.attention.projection
        y = F.layer_norm(tokens, (36,), block.attention_norm.weight, block.attention_norm.bias, 1e-6)
        tokens = tokens + attention(y, y, y)[0]
        y = F.layer_norm(tokens, (36,), block.mlp_norm.weight, block.mlp_norm.bias, 1e-6)
        hidden = F.gelu(y @ block.mlp[0].weight.T + block.mlp[0].bias)
        tokens = tokens + hidden @ block.mlp[2].weight.T + block.mlp[2].bias
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
    other = unpatchify(torch.where(hidden.unsqueeze(-1), torch.rand_like(patches), patches), 4, 3)
    assert torch.equal(encoder(x, keep), encoder(other, keep))
    assert not torch.equal(encoder(x), encoder(other))


def test_positions_differ_everywhere_and_leave_over_channels_are_zero() -> None:
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


@pytest.mark.parametrize(("dino", "mae"), [(1, 0), (0, 1), (1, 1)])
def test_every_parameter_that_is_built_is_trained(dino: float, mae: float) -> None:
    torch.manual_seed(0)
    student = Student(config(dino_weight=dino, mae_weight=mae))
    assert (student.head is None, student.decoder is None) == (dino == 0, mae == 0)
    probabilities = torch.softmax(torch.rand(2, 2, 24) * 9, -1) if dino else None
    losses = student(views(4, 2), probabilities, torch.tensor([[0, 3], [5, 20]]) if mae else None)
    losses.total.backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    parts = [loss.item() for loss in (losses.dino, losses.mae) if loss is not None]
    assert losses.total.item() == pytest.approx(sum(parts))


def test_frozen_prototypes_get_a_gradient_of_zero_and_give_the_same_loss() -> None:
    torch.manual_seed(0)
    student = Student(config(mae_weight=0))
    probabilities = torch.softmax(torch.rand(2, 2, 24) * 9, -1)
    frozen = student(views(4, 2), probabilities, freeze_prototypes=True).total
    assert frozen.item() == student(views(4, 2), probabilities).total.item()
    frozen.backward()
    assert student.head.prototypes.weight.grad.abs().max() == 0
    assert student.head.mlp[0].weight.grad.abs().max() > 0


def test_teacher_with_the_students_weights_gives_its_logits() -> None:
    torch.manual_seed(0)
    student = Student(config())
    teacher = Teacher(config())
    teacher.load_state_dict({k: v for k, v in student.state_dict().items() if not k.startswith("decoder.")})
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    torch.testing.assert_close(teacher(views(2, 3)), student._logits(views(2, 3), False))


def test_reconstruction_keeps_visible_patches_and_scales_the_others() -> None:
    torch.manual_seed(0)
    student = Student(config())
    x, keep = views(1), torch.tensor([[2, 9]])
    patches = patchify(student.reconstruct(x, keep), 4)
    assert torch.equal(patches[:, [2, 9]], patchify(x, 4)[:, [2, 9]])
    torch.testing.assert_close(patches.mean(-1), patchify(x, 4).mean(-1), atol=0.3, rtol=0)


def test_a_joint_model_learns_in_a_few_steps() -> None:
    torch.manual_seed(0)
    student = Student(config(dino_weight=0))
    optimizer = torch.optim.AdamW(student.parameters(), 3e-3)
    x, losses = views(4, 2), []
    for step in range(40):
        keep = keep_indices(0, step, np.arange(2), 27, 0.75)
        loss = student(x * torch.linspace(0, 1, 12), keep=keep).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
