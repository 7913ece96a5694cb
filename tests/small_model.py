"""A student and its inputs small enough for tests: configuration, views, losses and gradients."""

import numpy as np
import torch

from fmct_hpc.config import TrainConfig
from fmct_hpc.data.views import Views
from fmct_hpc.objective.draws import draw
from fmct_hpc.objective.student import Losses, Student
from fmct_hpc.train.schedules import settings as scheduled

SIZES = {"width": 36, "depth": 2, "heads": 3, "prototypes": 24, "head_hidden": 32, "head_bottleneck": 16}
DECODER = {"decoder_width": 24, "decoder_depth": 1, "decoder_heads": 2, "patch_size": 4}
ROTARY = {"positions": "rope", "rope_jitter": {"shift": 0.1, "stretch": 1.2, "rescale": 2}}


def config(model: dict[str, object] | None = None, **objective: object) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "data": {"path": "unused", "view_size": 12},
            "model": {**SIZES, **DECODER, **(model or {})},
            "objective": objective,
        }
    )


def views(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(*shape, 3, 12, 12, 12, generator=generator)


def seen(size: int = 12) -> Views:
    """Two global and two local views of two volumes, the local ones of `size`³ voxels."""
    made = views(4, 2)
    return Views(made[:2], made[2:, ..., :size, :size, :size])


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
