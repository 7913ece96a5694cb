"""The arrays of a fitted classifier, which map an encoder's outputs to scores."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from fmct_hpc.probe.kinds.base import Kind
from fmct_hpc.probe.series import Series

FloatArray = NDArray[np.float64]


class Scaling(NamedTuple):
    """Standardisation per channel; (width,) each."""

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    """1 / standard deviation; 0 for a constant channel."""

    @classmethod
    def over(cls, features: NDArray[np.floating[Any]], rows: NDArray[np.int64]) -> "Scaling":
        """From mean and deviation of features (N, width) over `rows`."""
        chosen = features[rows]
        return cls.of(chosen.mean(axis=0, dtype=np.float64), chosen.std(axis=0, dtype=np.float64))

    @classmethod
    def of(cls, mean: FloatArray, deviation: FloatArray) -> "Scaling":
        """From mean and deviation, (width,) each."""
        # The rounding errors of a constant channel must not become a feature.
        useful = deviation > 1e-6 * np.abs(mean).clip(min=1e-6)
        scale = np.where(useful, 1 / np.where(useful, deviation, 1), 0)
        return cls(mean.astype(np.float32), scale.astype(np.float32))

    def __call__(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Standardised features (N, width)."""
        return ((features - self.mean) * self.scale).astype(np.float32)

    def directions(self, features: NDArray[np.floating[Any]]) -> Tensor:
        """Standardised features, scaled to length 1: the dot product of two rows is their cosine."""
        return normalize(torch.from_numpy(self(features)), dim=1)


def pooled(tokens: Tensor, prefix: int, pools: Sequence[str]) -> Tensor:
    """Concatenate pooled tokens: (B, prefix + N, width) -> (B, pools · width).

    pools: any of cls (the CLS token), mean and max (of the patch tokens), in this order.
    """
    patches = tokens[:, prefix:]
    by_pool = {
        "cls": lambda: tokens[:, 0],
        "mean": lambda: patches.mean(dim=1),
        "max": lambda: patches.amax(dim=1),
    }
    return torch.cat([by_pool[pool]() for pool in pools], dim=1)


@dataclass(frozen=True)
class Head:
    """A fitted classifier of one task. Its fields are arrays and are stored under their names."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The fields."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        """The head with these `arrays`; raises TypeError if a field is missing or unknown."""
        return cls(**arrays)

    def scores(self, inputs: NDArray[np.floating[Any]]) -> FloatArray:
        """Probabilities (B,) of pooled features (B, width), or of patch tokens (B, patches, width)."""
        raise NotImplementedError

    def raw(self, inputs: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Logits (B,), or raw outputs (B, outputs) for labels that are not binary."""
        raise NotImplementedError

    def raw_of_studies(self, series: Series) -> NDArray[np.floating[Any]]:
        """`raw` for studies, from the inputs of their series; only for heads that attend to series."""
        raise NotImplementedError

    def predicted(self, inputs: NDArray[np.floating[Any]], kind: Kind) -> FloatArray:
        """Predictions of the label's kind: (B,) for binary labels, else (B, P)."""
        return kind.predictions(self.raw(inputs))


@dataclass(frozen=True)
class LinearHead(Head):
    """A linear model of standardised features."""

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    weight: NDArray[np.float32]
    """(width,); for labels that are not binary (width, directions)"""
    bias: NDArray[np.float32]
    """(), or (outputs,)"""

    def scores(self, inputs: NDArray[np.floating[Any]]) -> FloatArray:
        """Probabilities (B,) from pooled features (B, width)."""
        return torch.sigmoid(torch.from_numpy(self.raw(inputs)).double()).numpy()

    def raw(self, inputs: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Raw outputs from pooled features (B, width)."""
        return np.asarray(Scaling(self.mean, self.scale)(inputs) @ self.weight + self.bias)
