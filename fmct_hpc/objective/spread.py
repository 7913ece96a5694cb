"""Whether features spread: a figure of the shared pass, and the remedies where features collapse."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from fmct_hpc.config import TrainConfig


def remedy(config: TrainConfig) -> str:
    """How to restart a run whose features collapse: a list of changes to its configuration."""
    return listed(["a lower optim.base_lr", *sharper_targets(config), *more_spread(config)])


def sharper_targets(config: TrainConfig) -> list[str]:
    """Changes against uniform targets; none without a teacher."""
    if not config.objective.distils:
        return []
    sinkhorn = [] if config.objective.centring == "sinkhorn" else ["objective.centring=sinkhorn"]
    return [*sinkhorn, "a lower objective.teacher_temperature"]


def more_spread(config: TrainConfig) -> list[str]:
    """Changes that spread CLS tokens further."""
    if "lejepa" in config.objective.weights:
        return ["a greater objective.lejepa_lambda", more(config, "koleo")]
    return [more(config, "koleo")]


def more(config: TrainConfig, part: str) -> str:
    """A greater weight of the part of that name, or a first one where it has none."""
    return f"{'a greater' if part in config.objective.weights else 'some'} objective.{part}_weight"


def listed(changes: list[str]) -> str:
    """Alternatives as text: "a", "a or b", "a, b or c"."""
    *rest, last = changes
    return f"{', '.join(rest)} or {last}" if rest else last


def feature_deviation(features: Tensor) -> Tensor:
    """Standard deviation of normalised features (..., width) over rows, mean over the width, times √width.

    Near 1 where features spread over the sphere, 0 where all are equal (Chen and He 2021, section 4.1). Rows
    are those of all ranks, which must all call it: one rank may hold only two views of one volume.
    """
    import torch
    import torch.nn.functional as F

    from fmct_hpc.objective.ranks import all_reduce

    rows = F.normalize(features.detach().double().flatten(0, -2), dim=-1)
    moments = torch.cat([rows.sum(dim=0), rows.square().sum(dim=0), rows.new_tensor([float(len(rows))])])
    all_reduce(moments)
    mean, square = (moments[:-1] / moments[-1]).chunk(2)
    return ((square - mean.square()).clamp(min=0).sqrt().mean() * rows.shape[-1] ** 0.5).float()
