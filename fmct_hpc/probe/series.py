"""Several series of a study as one sample: their inputs and how they are pooled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from shards.schema import Role

if TYPE_CHECKING:
    from torch import Tensor

ROLES: tuple[str, ...] = get_args(Role)
"""Role names; the position is the role's number."""
SeriesPool = Literal["mean", "max"]


class Series(NamedTuple):
    """Inputs of the series of B studies, concatenated, the best series of each study first."""

    values: NDArray[np.floating[Any]]
    """(M, ...): pooled features (M, width), or patch tokens (M, patches, width)."""
    roles: NDArray[np.int64]
    """(M,), numbers in `ROLES`."""
    starts: NDArray[np.int64]
    """(B,): index of the first series of each study."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """(B,): number of series of each study."""
        return np.diff(np.append(self.starts, len(self.roles)))


def over_series(series: Series, pool: SeriesPool) -> NDArray[np.float32]:
    """Mean or maximum per channel over the features of each study's series: (B, width)."""
    if not len(series.starts):
        return series.values[:0].astype(np.float32)
    if pool == "max":
        return np.asarray(np.maximum.reduceat(series.values, series.starts), np.float32)
    sums = np.add.reduceat(series.values, series.starts)
    return np.asarray(sums / series.counts[:, None].astype(np.float32), np.float32)


def padded(counts: NDArray[np.int64], roles: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Indices of the series of each study, and their roles: int64 (B, maximum number of series) each.

    Studies with fewer series are padded with their first series, with role -1.
    """
    import torch  # configurations read this module

    width = int(counts.max()) if len(counts) else 1
    starts = np.cumsum(counts) - counts
    there = np.arange(width) < counts[:, None]
    places = np.where(there, starts[:, None] + np.arange(width), starts[:, None])
    own = np.where(there, roles[places], -1) if len(roles) else np.empty((0, width), np.int64)
    return torch.from_numpy(places), torch.from_numpy(own)


def role_terms(roles: Tensor, queries: Tensor, embedding: Tensor) -> Tensor:
    """Contribution of the role to the products of queries and a series' tokens: (B, S, queries).

    roles: (B, S), -1 for padding, whose term is -inf. queries: (queries, width). embedding: (roles, width),
    added to the keys and not to the values. The term of the study's first series is subtracted from all,
    which does not change the softmax and gives exactly 0 for a study of one series.
    """
    keys = embedding[roles.clamp(min=0)]
    terms = (keys - keys[:, :1]) @ queries.T
    return terms.masked_fill((roles < 0)[..., None], float("-inf"))
