"""Combination of a study's series by a head, as shares that multiply the weights within each series."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fmct_hpc.probe.series import ROLES


@dataclass(frozen=True)
class SeriesCombination:
    """Combination of series in one head. Tensors are float32, on the encoder's device.

    mean, max: over the features of the series, per channel; attention: a softmax over the series, of their
    pooled features and roles (`fmct_hpc.probe.series_attention`); patches: queries attend to the patches of
    all series together, with the roles' embedding in the keys (`fmct_hpc.probe.attentive`).
    """

    pool: Literal["mean", "max", "attention", "patches"]
    attention: Tensor | None = None
    """(rows, width), for attention."""
    embedding: Tensor | None = None
    """(roles,) for attention, (roles, width) for patches."""
    roles: Tensor | None = None
    """int64 (S,): roles of the study's series, the best first."""

    def of(self, roles: tuple[str, ...], device: torch.device) -> "SeriesCombination":
        """The combination for a study whose series have these roles."""
        numbers = [ROLES.index(role) for role in roles]
        return replace(self, roles=torch.tensor(numbers, dtype=torch.int64, device=device))

    @property
    def series(self) -> int:
        """Number of series, S."""
        assert self.roles is not None
        return len(self.roles)

    def softmax(self, products: Tensor, query: Tensor) -> Tensor:
        """A query's patch weights, which sum to 1 over a study: products (B * S, n) -> (B * S, n)."""
        assert self.roles is not None
        assert self.embedding is not None
        keys = self.embedding[self.roles]
        terms = (keys - keys[:1]) @ query
        joined = products.unflatten(0, (-1, self.series)) + terms[None, :, None]
        return joined.flatten(1).softmax(dim=1).reshape(products.shape)

    def shares(self, vectors: Tensor) -> Tensor:
        """Shares of the series in each row: pooled vectors (B * S, rows, width) -> same, or (B * S, 1, 1)."""
        studies = vectors.unflatten(0, (-1, self.series))
        if self.pool == "max":
            weights = torch.zeros_like(studies)
            return weights.scatter_(1, studies.argmax(dim=1, keepdim=True), 1.0).flatten(0, 1)
        if self.pool == "attention":
            assert self.attention is not None
            assert self.embedding is not None
            scores = (studies * self.attention).sum(dim=(2, 3)) + self.embedding[self.roles]
            return scores.softmax(dim=1).flatten()[:, None, None]
        return torch.full_like(vectors[:, :1, :1], 1 / self.series)
