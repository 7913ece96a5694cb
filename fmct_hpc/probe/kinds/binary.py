"""Binary labels. Their metrics, thresholds and calibration have separate tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fmct_hpc.probe.kinds.base import Kind, PredictionColumns, RawArray, Targets
from fmct_hpc.probe.statistics.scored import FloatArray, IntArray

MIN_PROBABILITY = 1e-6
"""Lower bound in log loss, since the vote of neighbours may be 0."""


def log_loss(probabilities: FloatArray, labels: NDArray[np.bool_]) -> FloatArray:
    """Mean negative log-likelihood along the last axis; 0 without volumes.

    The criterion of methods: it distinguishes strengths on few volumes, where areas under curves tie.
    """
    if not len(labels):
        return np.zeros(probabilities.shape[:-1])
    right = np.where(labels, probabilities, 1 - probabilities)
    return np.asarray(-np.log(np.maximum(right, MIN_PROBABILITY)).mean(axis=-1))


@dataclass(frozen=True)
class Binary(Kind):
    """Labels 0 and 1; targets (N,) bool, predictions (N,), heads without an axis of outputs."""

    name: ClassVar[str] = "binary"
    figures: ClassVar[tuple[str, ...]] = ("auc",)

    def targets(self, values: FloatArray, times: FloatArray) -> Targets:
        """Whether the label is 1."""
        return values == 1

    def strata(self, targets: Targets) -> IntArray:
        """Negatives, then positives."""
        return targets.astype(np.int64)

    def stratum_names(self) -> Sequence[str]:
        """As in `2 positive training patients`."""
        return ("negative", "positive")

    def start(self, targets: Targets) -> Tensor:
        """0, a scalar."""
        return torch.zeros(())

    def loss(self, raw: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy of logits (B,)."""
        labels = torch.from_numpy(targets.astype(np.float32)).to(raw.device)
        return F.binary_cross_entropy_with_logits(raw, labels, reduction="sum")

    def predictions(self, raw: RawArray) -> FloatArray:
        """Probabilities from logits, (N,) each."""
        return np.asarray(torch.sigmoid(torch.from_numpy(np.asarray(raw)).double()).numpy())

    def choice_loss(self, predictions: FloatArray, targets: Targets) -> float:
        """`log_loss` of probabilities (N,)."""
        return float(log_loss(predictions, targets))

    def votes(self, targets: Targets) -> FloatArray:
        """1 for positives."""
        return targets.astype(np.float64)

    def columns(self, predictions: FloatArray) -> list[PredictionColumns]:
        """Only the probability."""
        return [PredictionColumns(float(score)) for score in predictions]


BINARY = Binary()
