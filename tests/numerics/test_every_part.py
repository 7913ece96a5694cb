"""Properties of every registered part, new ones too: equal at 1, 2 and 4 ranks, fully trained, counted."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from rank_counts import on_rank_counts

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.views import Views
from fmct_hpc.model.size import parameter_counts
from fmct_hpc.objective.draws import draw
from fmct_hpc.objective.registry import PARTS
from fmct_hpc.objective.student import Student, Teacher
from fmct_hpc.objective.targets import Targets
from fmct_hpc.train.schedules import settings

VOLUMES, STEP = 8, 5


def all_parts() -> TrainConfig:
    """All random draws, and targets that depend on the whole batch."""
    return TrainConfig.model_validate(
        {
            "data": {"path": "unused", "view_size": 12, "local_view_size": 8},
            "model": {
                **{"width": 36, "depth": 2, "heads": 3, "patch_size": 4, "drop_path": 0.3},
                **{"keep_tokens": 0.8},
                **{"prototypes": 24, "head_hidden": 32, "head_bottleneck": 16},
                **{"decoder_width": 24, "decoder_depth": 1, "decoder_heads": 2},
            },
            "objective": {
                **{f"{kind.name}_weight": 0.5 for kind in PARTS},
                **{"centring": "sinkhorn", "freeze_prototypes": 0, "ibot_mask_probability": 1},
                **{"gram_begin": 0, "lejepa_hidden": 32, "lejepa_width": 16},
            },
        }
    )


def judged(rank: int, world: int, folder: Path) -> dict[str, torch.Tensor]:
    """The mean over ranks of each part's loss, figures, and gradient of all parameters."""
    config = all_parts()
    torch.manual_seed(0)
    student, teacher = Student(config), Teacher(config)
    generator = torch.Generator().manual_seed(1)
    made = [torch.rand(2, VOLUMES, 3, *3 * [size], generator=generator) for size in (12, 8)]
    views = Views(*(sizes.chunk(world, dim=1)[rank] for sizes in made))
    draws = draw(config, STEP, np.split(np.arange(40, 40 + VOLUMES), world)[rank])
    now = settings(config, STEP)
    [targets] = Targets(config).of([teacher(views.whole, draws, now)], now.teacher_temperature)
    for part in config.parts:
        if part.anchored:
            tokens = teacher.encoder(views.whole.flatten(0, 1))[:, teacher.encoder.prefix :].detach()
            targets[part.name] = tokens.unflatten(0, views.whole.shape[:2])
    losses = student(views, targets, draws, now)
    results = {f"{name} loss": loss.detach() for name, loss in losses.parts.items()} | losses.health
    parameters = list(student.parameters())
    for name, loss in losses.parts.items():
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        whole = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        results[f"{name} gradient"] = torch.cat([gradient.flatten() for gradient in whole])
    for value in results.values():
        dist.all_reduce(value)
        value /= world
    all_gradients = torch.stack([results[f"{name} gradient"] for name in losses.parts])
    of_each = all_gradients.split([p.numel() for p in parameters], dim=1)
    results["untrained"] = torch.tensor(sum(not gradient.any() for gradient in of_each))
    return results


def test_each_parts_loss_and_gradient_do_not_depend_on_the_ranks(tmp_path: Path) -> None:
    worlds = on_rank_counts(judged, tmp_path)
    [alone] = worlds.pop(1)
    for kind in PARTS:
        assert alone[f"{kind.name} loss"].abs() > 1e-3, kind.name
        assert alone[f"{kind.name} gradient"].norm() > 1e-3, kind.name
    assert alone["untrained"] == 0
    for world, ranks in worlds.items():
        for actual in ranks:
            assert actual.keys() == alone.keys()
            for name, value in alone.items():
                largest = float(value.abs().max())
                torch.testing.assert_close(
                    actual[name], value, rtol=1e-5, atol=1e-5 * largest, msg=f"{name}, {world} ranks"
                )


def test_parameter_counts_of_each_part_equal_the_built_modules() -> None:
    built: Counter[str] = Counter()
    for name, parameter in Student(all_parts()).named_parameters():
        built[name.split(".")[0]] += parameter.numel()
    assert parameter_counts(all_parts()) == built
