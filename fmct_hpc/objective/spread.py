"""Whether features spread: a sign of health of the pass that parts share, whatever the parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

REMEDY = (
    "a lower optim.base_lr, objective.centring=sinkhorn, a lower objective.teacher_temperature or some "
    "objective.koleo_weight"
)
"""What to begin again with where features collapse."""


def feature_deviation(features: Tensor) -> Tensor:
    """Standard deviation of normalised features (..., width) over rows, mean over the width, times √width.

    Near 1 where features spread over the sphere, 0 where all are one (Chen and He 2021, section 4.1). Rows
    are those of all ranks, which must all call it: one rank may hold no more than two views of one volume.
    """
    import torch
    import torch.nn.functional as F

    from fmct_hpc.objective.ranks import all_reduce

    rows = F.normalize(features.detach().double().flatten(0, -2), dim=-1)
    moments = torch.cat([rows.sum(dim=0), rows.square().sum(dim=0), rows.new_tensor([float(len(rows))])])
    all_reduce(moments)
    mean, square = (moments[:-1] / moments[-1]).chunk(2)
    return ((square - mean.square()).clamp(min=0).sqrt().mean() * rows.shape[-1] ** 0.5).float()
