"""Patches that model.keep_tokens omits: which ones, by NumPy, and that nothing depends on them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_training import small_encoder, write_dataset

import fmct_hpc
from fmct_hpc.config import TrainConfig
from fmct_hpc.data.config import DataConfig
from fmct_hpc.data.field import center_view
from fmct_hpc.data.views import Views
from fmct_hpc.fields import Size
from fmct_hpc.inference.readers import read_scans
from fmct_hpc.model.attention import cls_attention
from fmct_hpc.model.patches import patchify
from fmct_hpc.model.tissue import dropped_tissue, kept_patches, most_tissue
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.objective.draws import draw
from fmct_hpc.objective.ibot import masked_patches
from fmct_hpc.objective.mae import reconstruct
from fmct_hpc.objective.registry import PARTS
from fmct_hpc.objective.student import Losses, Student, Teacher
from fmct_hpc.train.export import load_encoder
from fmct_hpc.train.schedules import settings as scheduled
from launch.study.cohort import Split, make_volume
from launch.study.config import CohortConfig

KEPT = 13
"""Of the 27 patches of a view: ceil(0.48 · 27)."""


def config(model: dict[str, object] | None = None, **objective: object) -> TrainConfig:
    sizes = {"width": 36, "depth": 2, "heads": 3, "prototypes": 24, "head_hidden": 32, "head_bottleneck": 16}
    decoder = {"decoder_width": 24, "decoder_depth": 1, "decoder_heads": 2, "patch_size": 4}
    return TrainConfig.model_validate(
        {
            "data": {"path": "unused", "view_size": 12, "local_view_size": 8},
            "model": {**sizes, **decoder, "keep_tokens": 0.48, **(model or {})},
            "objective": objective,
        }
    )


def heads(*shape: int, size: int = 12, seed: int = 0) -> torch.Tensor:
    """Views whose patches hold more or less, a third of them air: (*shape, 3, size, size, size)."""
    generator = np.random.default_rng(seed)
    fill = generator.uniform(0, 1, (*shape, 1, *3 * [size // 4]))
    fill[fill < 1 / 3] = 0
    for axis in (-3, -2, -1):
        fill = fill.repeat(4, axis=axis)
    return torch.from_numpy((fill * generator.uniform(0, 1, (*shape, 3, *3 * [size]))).astype(np.float32))


def by_hand(view: torch.Tensor, patch: tuple[int, int, int], count: int) -> NDArray[np.int64]:
    """Numbers of the patches with the most tissue of one view (C, D, H, W), patch by patch."""
    values = np.rint(view.numpy() * np.float32(255)).astype(np.int64)
    grid = [edge // part for edge, part in zip(values.shape[1:], patch, strict=True)]
    held = []
    for place in np.ndindex(*grid):
        box = tuple(slice(p * part, (p + 1) * part) for p, part in zip(place, patch, strict=True))
        held.append(int(values[:, *box].sum()))
    order = sorted(range(len(held)), key=lambda number: (-held[number], number))
    return np.array(sorted(order[:count]))


def without(views: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The same (B, C, 12, 12, 12), except for other air, by less than half a step, in omitted patches."""
    inside = torch.zeros(len(views), 27).scatter(1, kept, 1).reshape(-1, 1, 3, 3, 3)
    for axis in (2, 3, 4):
        inside = inside.repeat_interleave(4, dim=axis)
    return torch.where(inside.bool(), views, 0.4 / 255 * torch.rand_like(views))


def students(settings: TrainConfig) -> tuple[Student, Teacher]:
    torch.manual_seed(0)
    student, teacher = Student(settings), Teacher(settings)
    state = student.state_dict()
    teacher.load_state_dict({name: state[name] for name in teacher.state_dict()})
    return student, teacher


@pytest.mark.parametrize("patch", [(4, 4, 4), (2, 6, 3), (12, 4, 6)])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.99, 1.0])
def test_patches_with_the_most_tissue_are_kept_and_ties_go_to_the_first(
    share: float, patch: tuple[int, int, int]
) -> None:
    views = torch.cat([heads(4), torch.full((1, 3, 12, 12, 12), 0.2)])
    patches = int(np.prod([12 // edge for edge in patch]))
    count = int(np.ceil(share * patches))
    actual = most_tissue(views, patch, share)
    if count == patches:
        assert actual is None
        return
    assert actual is not None
    for view, kept in zip(views, actual, strict=True):
        assert np.array_equal(kept, by_hand(view, patch, count))
    assert np.array_equal(actual[-1], np.arange(count)), "of equal patches the first ones"
    # Other views of the batch and an intensity shift of whole steps have no effect.
    assert all(
        torch.equal(kept_of(view[None], patch, share)[0], kept)
        for view, kept in zip(views, actual, strict=True)
    )
    assert torch.equal(kept_of(views + 51 / 255, patch, share), actual)


def test_the_number_of_patches_is_not_raised_by_rounding_error() -> None:
    assert [kept_patches(100, share) for share in (0.55, 0.57, 0.551, 1.0)] == [55, 57, 56, 100]
    assert kept_patches(27, 0.48) == KEPT


def test_dropped_tissue_is_counted_under_any_intensity_shift() -> None:
    views = heads(3)
    held = np.rint(patchify(views, 4).numpy() * np.float32(255)).sum(axis=-1)
    gone = [
        sum(row[number] for number in range(27) if number not in by_hand(view, (4, 4, 4), KEPT))
        for row, view in zip(held, views, strict=True)
    ]
    shifted = views + torch.tensor([0.0, 0.2, -0.2]).reshape(3, 1, 1, 1, 1)
    for given in (views, shifted):
        dropped, whole = dropped_tissue(given, 4, 0.48).tolist()
        assert whole == pytest.approx(held.sum(), rel=2e-3)
        assert dropped / whole == pytest.approx(sum(gone) / held.sum(), rel=2e-2)
    assert dropped_tissue(views, 4, 1.0).tolist() == [0, 0]


@pytest.mark.parametrize("positions", ["sincos", "learned", "rope"])
@pytest.mark.parametrize("size", [12, 8])
def test_features_depend_on_the_kept_patches_alone(positions: str, size: int) -> None:
    torch.manual_seed(0)
    encoder = VisionTransformer(config({"positions": positions}).model, 3, 12)
    whole = VisionTransformer(config({"positions": positions, "keep_tokens": 1}).model, 3, 12)
    whole.load_state_dict(encoder.state_dict())
    views, patches = heads(4, size=size), (size // 4) ** 3
    count = int(np.ceil(0.48 * patches))
    kept = torch.from_numpy(np.stack([by_hand(view, (4, 4, 4), count) for view in views]))
    with torch.no_grad():
        tokens, expected = encoder(views), whole(views, kept)
        assert tokens.shape == (4, encoder.prefix + count, 36)
        assert torch.equal(tokens, expected)
        assert torch.equal(encoder.at_blocks(views, [1])[0], expected)
        if size == 12:
            assert torch.equal(encoder(without(views, kept)), expected)
        seen = cls_attention(encoder, views).flatten(2)
        assert seen.shape == (4, 3, patches)
        left_out = torch.ones(4, patches).scatter(1, kept, 0).bool()
        assert (seen.transpose(1, 2)[left_out] == 0).all()
        assert (seen.transpose(1, 2)[~left_out] > 0).all()


def kept_of(views: torch.Tensor, patch: Size, share: float) -> torch.Tensor:
    kept = most_tissue(views, patch, share)
    assert kept is not None
    return kept


def losses_of(settings: TrainConfig, whole: torch.Tensor, local: torch.Tensor) -> tuple[Losses, Student]:
    student, teacher = students(settings)
    draws, now = draw(settings, 3, np.arange(whole.shape[1])), scheduled(settings, 3)
    teacher_outputs: dict[str, Any] = dict(teacher(whole, draws, now))
    for part in settings.parts:
        if part.anchored:
            tokens = teacher.encoder(whole.flatten(0, 1)).unflatten(0, whole.shape[:2])
            teacher_outputs[part.name] = tokens[:, :, teacher.encoder.prefix :] + 0.1
    targets = {name: t if name == "gram" else t.softmax(-1) for name, t in teacher_outputs.items()}
    return student(Views(whole, local), targets, draws, now), student


def test_no_part_reads_dropped_patches() -> None:
    weights = {f"{kind.name}_weight": 0.5 for kind in PARTS}
    settings = config(
        None,
        **weights,
        gram_begin=0,
        freeze_prototypes=0,
        ibot_mask_probability=1,
        lejepa_hidden=32,
        lejepa_width=16,
    )
    whole, local = heads(2, 4), heads(2, 4, size=8, seed=1)
    flat = whole.flatten(0, 1)
    kept = kept_of(flat, 4, 0.48)
    changed = without(flat, kept).unflatten(0, (2, 4))
    assert not torch.equal(changed, whole)
    (ours, student), (theirs, _) = (losses_of(settings, given, local) for given in (whole, changed))
    assert set(ours.parts) == {kind.name for kind in PARTS}
    assert all(torch.equal(ours.parts[name], theirs.parts[name]) for name in ours.parts)
    ours.total.backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_mae_is_over_the_masked_among_the_kept_patches() -> None:
    settings = config(dino_weight=0, mae_weight=1)
    student = Student(settings)
    views, made = heads(2, 3), []
    student.get_submodule("decoder").register_forward_hook(
        lambda _, inputs, output: made.append((inputs, output))
    )
    draws = draw(settings, 3, np.arange(3))
    loss = student(Views(views, None), {}, draws, scheduled(settings, 3)).parts["mae"].item()
    [(inputs, predicted)] = made
    visible = draws.parts["mae"].keep.numpy()
    assert visible.shape == (3, round(KEPT * 0.25))
    assert inputs[0].shape[1] == student.encoder.prefix + visible.shape[1]
    assert predicted.shape[:2] == (3, KEPT)
    errors = []
    for number, view in enumerate(views[0]):
        kept = by_hand(view, (4, 4, 4), KEPT)
        whole = patchify((view[None] - 0.5) / 0.3, 4)[0].numpy()
        for place, patch in enumerate(kept):
            if place in visible[number]:
                continue
            truth = whole[patch].astype(np.float64)
            truth = (truth - truth.mean()) / np.sqrt(truth.var(ddof=1) + 1e-6)
            errors.append(((predicted[number, place].detach().numpy() - truth) ** 2).mean())
    assert len(errors) == 3 * (KEPT - visible.shape[1])
    assert loss == pytest.approx(np.mean(errors), rel=1e-5)


def test_a_reconstruction_leaves_dropped_patches_unchanged() -> None:
    student, _ = students(config(mae_weight=1))
    view, places = heads(1), torch.tensor([[2, 9]])
    kept = by_hand(view[0], (4, 4, 4), KEPT)
    made, own = (patchify(x, 4)[0] for x in (reconstruct(student, view, places, normalised=True), view))
    hidden = [patch for place, patch in enumerate(kept) if place not in (2, 9)]
    for patch in range(27):
        assert torch.equal(made[patch], own[patch]) is (patch not in hidden)
    torch.testing.assert_close(made[hidden].mean(-1), own[hidden].mean(-1), atol=0.3, rtol=0)


def test_ibot_masks_a_share_of_the_kept_patches_starting_with_covered_ones() -> None:
    samples, grid = np.arange(6), (8, 8, 8)
    masked = masked_patches(1, 10, samples, 2, grid, 200, 0.5, (0.1, 0.5))
    alike = masked_patches(1, 10, samples, 2, grid, 512, 0.5, (0.1, 0.5))
    assert torch.equal(masked.counts > 0, alike.counts > 0)
    assert ((masked.counts == 0) | ((masked.counts >= 20) & (masked.counts <= 100))).all()
    generator = np.random.default_rng(0)
    kept = np.stack([np.sort(generator.permutation(512)[:200]) for _ in range(12)]).reshape(2, 6, 200)
    kept[0, 0] = masked.turns[0, 0].argsort(descending=True)[:200].sort().values  # the patches covered last
    where = masked.where(torch.from_numpy(kept))
    for view, sample in np.ndindex(2, 6):
        turns, count = masked.turns[view, sample].numpy(), int(masked.counts[view, sample])
        first = sorted(kept[view, sample], key=turns.__getitem__)[:count]
        assert all(turns[patch] < 512 for patch in first), "hidden by a block"
        assert set(kept[view, sample][where[view, sample].numpy()]) == set(first)
    assert len(masked.weights) == where.sum()


def test_student_and_teacher_compare_the_same_patches() -> None:
    settings = config(ibot_weight=1, ibot_mask_probability=1)
    student, teacher = students(settings)
    whole, draws = heads(2, 3), draw(settings, 3, np.arange(3))
    logits = teacher(whole, draws, scheduled(settings, 3))["ibot"]
    tokens = student.encoder(whole.flatten(0, 1)).unflatten(0, (2, 3))[:, :, student.encoder.prefix :]
    kept = np.array([[by_hand(view, (4, 4, 4), KEPT) for view in views] for views in whole])
    where = draws.parts["ibot"].where(torch.from_numpy(kept))
    torch.testing.assert_close(logits, student.get_submodule("ibot_head")(tokens[where]))


def test_features_of_new_scans_have_the_positions_of_the_kept_patches(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 2)
    encoder, info = load_encoder(small_encoder(data, tmp_path / "encoder"))
    fewer = info.model_copy(update={"model": info.model.model_copy(update={"keep_tokens": 0.5})})
    short = VisionTransformer(fewer.model, 3, 24).eval()
    short.load_state_dict(encoder.state_dict())
    all_of, some = (list(fmct_hpc.features(data, given)) for given in ((encoder, info), (short, fewer)))
    for given, scan, less in zip(read_scans(data, info), all_of, some, strict=True):
        kept = by_hand(info.view(given.voxels, given.spacing_mm)[0], (6, 6, 6), 32)
        assert given.key == scan.key == less.key
        assert np.array_equal(less.centres_mm, scan.centres_mm[kept])
        assert less.patches.shape == (32, 24)


@pytest.mark.parametrize(("share", "hottest", "loses"), [(0.6, -800, 0.0), (0.5, -400, 1e-4)])
def test_only_air_is_dropped_from_whole_synthetic_heads(share: float, hottest: float, loses: float) -> None:
    """Below -800 HU all default windows are 0."""
    data = DataConfig(path=Path("unused"), view_size=32)
    in_hu = data.model_copy(update={"windows": ((0, 2000),)})
    for number in range(2):
        voxels, _ = make_volume(CohortConfig(seed=5, edge=32, spacing_mm=7.0), Split.TRAIN, number)
        view, hu = (torch.from_numpy(center_view(voxels, 3 * (7.0,), how))[None] for how in (data, in_hu))
        gone = torch.ones(1, 512).scatter(1, kept_of(view, 4, share), 0).bool()
        left_out = patchify(hu, 4)[gone] * 2000 - 1000
        assert left_out.max() < hottest
        assert left_out.mean(dim=-1).max() < -950
        dropped, whole = dropped_tissue(view, 4, share).tolist()
        assert dropped <= loses * whole
        fewer, _ = dropped_tissue(view, 4, 0.3).tolist()
        assert fewer > 0.02 * whole, "a share that is too small shows"
