"""Attention of a fine-tuned classifier over the series of a study."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fmct_hpc.probe.heads import LinearHead
from fmct_hpc.probe.series import ROLES, Series, padded


class SeriesAttention(nn.Module):
    """A weighted mean of a study's series: softmax of w · v + b of the series' role.

    Attention pooling of a bag's instances (Ilse et al. 2018, "Attention-based Deep Multiple Instance
    Learning", equations 7 and 8, with a linear score). Starts as the mean, since all weights are 0; a single
    series is returned unchanged.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.roles = nn.Parameter(torch.zeros(len(ROLES)))

    def forward(self, values: Tensor, places: Tensor, roles: Tensor) -> Tensor:
        """(M, width) of all series -> (B, width); places and roles: from `padded`."""
        products = values @ self.weight
        scores = products[places] + self.roles[roles.clamp(min=0)]
        attention = scores.masked_fill(roles < 0, -torch.inf).softmax(dim=1)
        return (attention[..., None] * values[places]).sum(dim=1)


@dataclass(frozen=True)
class StudyLinearHead(LinearHead):
    """A linear model of the attention-weighted mean of a study's series."""

    attention: NDArray[np.float32]
    """(width,)"""
    roles: NDArray[np.float32]
    """(roles,)"""

    def raw_of_studies(self, series: Series) -> NDArray[np.floating]:
        """Raw outputs from the pooled features (M, width) of all series."""
        module = SeriesAttention(len(self.attention))
        module.load_state_dict(
            {"weight": torch.from_numpy(self.attention), "roles": torch.from_numpy(self.roles)}
        )
        with torch.no_grad():
            values = torch.from_numpy(np.asarray(series.values, np.float32))
            pooled = module(values, *padded(series.counts, series.roles)).numpy()
        return self.raw(pooled)
