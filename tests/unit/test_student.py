"""The student and its teacher: every parameter is trained, views are independent, masked patches unseen."""

import numpy as np
import pytest
import torch
from small_model import DECODER, SIZES, config, forward, gradient_of, seen, views

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.views import Views
from fmct_hpc.model.heads import DinoHead
from fmct_hpc.model.patches import patchify, unpatchify
from fmct_hpc.objective.draws import draw
from fmct_hpc.objective.koleo import Koleo
from fmct_hpc.objective.mae import reconstruct
from fmct_hpc.objective.registry import PARTS
from fmct_hpc.objective.student import Student, Teacher
from fmct_hpc.train.schedules import settings as scheduled


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
