"""Several series of a study as one sample: what is read of them, and how it is pooled."""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.schema import Role

ROLES: tuple[str, ...] = get_args(Role)
"""In the order of their numbers."""
SeriesPool = Literal["mean", "max"]


class Series(NamedTuple):
    """What is read of the series of B studies, one behind another, the best one of each study first."""

    values: NDArray[np.floating[Any]]
    """(M, ...): pooled features (M, width), or patch tokens (M, patches, width)."""
    roles: NDArray[np.int64]
    """(M,), numbers in `ROLES`."""
    starts: NDArray[np.int64]
    """(B,): where the series of each study begin."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """(B,): how many series each study has."""
        return np.diff(np.append(self.starts, len(self.roles)))


def over_series(series: Series, pool: SeriesPool) -> NDArray[np.float32]:
    """Mean or maximum, channel by channel, over the features of each study's series: (B, width)."""
    if not len(series.starts):
        return series.values[:0].astype(np.float32)
    if pool == "max":
        return np.asarray(np.maximum.reduceat(series.values, series.starts), np.float32)
    sums = np.add.reduceat(series.values, series.starts)
    return np.asarray(sums / series.counts[:, None].astype(np.float32), np.float32)


def padded(counts: NDArray[np.int64], roles: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Where the series of each study stand among all, and their roles: int64 (B, most series) each.

    Where a study has fewer series, its first one stands again, and the role is -1.
    """
    width = int(counts.max()) if len(counts) else 1
    starts = np.cumsum(counts) - counts
    there = np.arange(width) < counts[:, None]
    places = np.where(there, starts[:, None] + np.arange(width), starts[:, None])
    own = np.where(there, roles[places], -1) if len(roles) else np.empty((0, width), np.int64)
    return torch.from_numpy(places), torch.from_numpy(own)


def role_terms(roles: Tensor, queries: Tensor, embedding: Tensor) -> Tensor:
    """What a role adds to the products of queries with a series' tokens: (B, S, queries).

    roles: (B, S), -1 where there is no series, whose term is -inf. queries: (queries, width); embedding:
    (roles, width), added to the tokens where they are keys and not where they are values. That of the study's
    first series is taken from all, which no softmax notices; so a study of one series has exactly 0.
    """
    keys = embedding[roles.clamp(min=0)]
    terms = (keys - keys[:, :1]) @ queries.T
    return terms.masked_fill((roles < 0)[..., None], -torch.inf)
