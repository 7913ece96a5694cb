"""The task of fine-tuning: its linear layer, its loss, and the criterion for choosing the step."""

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from fmct_hpc.probe.kinds import BINARY, Kind
from fmct_hpc.probe.kinds.base import Targets
from fmct_hpc.probe.methods.finetune import FinetuneConfig
from fmct_hpc.probe.statistics.scored import FloatArray
from shards.errors import FmctError


class Goal(ABC):
    """The labels for fine-tuning."""

    @abstractmethod
    def layer(self, width: int) -> "nn.Linear | KindLayer":
        """The layer (B, width) -> (B, outputs)."""

    @abstractmethod
    def loss(self, raw: Tensor, places: NDArray[np.int64]) -> Tensor:
        """The loss of raw outputs (B, outputs); places: positions among the training rows."""

    @abstractmethod
    def evaluated(self, raw: NDArray[np.float32], rows: NDArray[np.int64]) -> tuple[float, float]:
        """Area and loss on validation rows: the greatest area, then the lowest loss chooses the step.

        The area is NaN if it is not defined for the rows; the latest step is kept then.
        """

    @abstractmethod
    def predictions(self, raw: NDArray[np.float32]) -> FloatArray:
        """Raw outputs (N, outputs) -> predictions of the label's kind."""

    @abstractmethod
    def kept(self, layer: "nn.Linear | KindLayer") -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weight and bias as in `LinearHead`."""


def goal_of(kind: Kind, targets: Targets, train: NDArray[np.int64], config: FinetuneConfig) -> Goal:
    """The goal of one label."""
    if kind == BINARY:
        return Findings(targets[:, None].astype(np.float32), train, config)
    return KindGoal(kind, targets, train)


class Findings(Goal):
    """Binary labels, (N, T), 0 or 1, NaN where unknown; rarer classes have a higher weight.

    Raises FmctError if no task has both classes among the training rows.
    """

    def __init__(
        self, labels: NDArray[np.floating], train: NDArray[np.int64], config: FinetuneConfig
    ) -> None:
        self._labels, self._train, self._max_weight = labels, train, config.max_positive_weight
        self._known = torch.from_numpy(np.asarray(labels[train], dtype=np.float32))
        self._weights = _positive_weights(self._known, config.max_positive_weight)

    def layer(self, width: int) -> "nn.Linear | KindLayer":
        """One logit per task."""
        layer = nn.Linear(width, self._labels.shape[1])
        nn.init.zeros_(layer.bias)
        return layer

    def loss(self, raw: Tensor, places: NDArray[np.int64]) -> Tensor:
        """Weighted cross-entropy."""
        known = self._known[torch.from_numpy(places)].to(raw.device)
        return _cross_entropy(raw, known, self._weights.to(raw.device))

    def evaluated(self, raw: NDArray[np.float32], rows: NDArray[np.int64]) -> tuple[float, float]:
        """Mean area over the tasks, and log loss."""
        odds = torch.from_numpy(raw) - self._weights.log()  # undo the class weights of the loss
        truth = torch.from_numpy(np.asarray(self._labels[rows], dtype=np.float32))
        loss = _cross_entropy(odds, truth, torch.ones_like(self._weights)).item()
        return _mean_auc(raw, self._labels[rows]), loss

    def predictions(self, raw: NDArray[np.float32]) -> FloatArray:
        """Probabilities of the first task, (N,), corrected for the class weights of the loss."""
        return np.asarray(expit(raw[:, 0].astype(np.float64) - self._shift))

    @property
    def _shift(self) -> float:
        positives = float((self._labels[self._train, 0] == 1).mean())
        return float(np.log(np.clip((1 - positives) / positives, 1 / self._max_weight, self._max_weight)))

    def kept(self, layer: "nn.Linear | KindLayer") -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weight and bias of the first task."""
        assert isinstance(layer, nn.Linear)
        weight, bias = layer.weight[0], layer.bias[0] - self._shift
        return weight.detach().float().cpu().numpy(), bias.detach().float().cpu().numpy()


class KindGoal(Goal):
    """One label that is not binary."""

    def __init__(self, kind: Kind, targets: Targets, train: NDArray[np.int64]) -> None:
        """targets: one row per volume; must be known in the rows that are used."""
        self._kind, self._targets = kind.on(targets[train]), targets
        self._train = train

    def layer(self, width: int) -> "nn.Linear | KindLayer":
        """A `KindLayer` for the label's kind."""
        return KindLayer(self._kind, width, self._kind.start(self._targets[self._train]))

    def loss(self, raw: Tensor, places: NDArray[np.int64]) -> Tensor:
        """The kind's loss per volume."""
        return self._kind.loss(raw, self._targets[self._train[places]]) / len(places)

    def evaluated(self, raw: NDArray[np.float32], rows: NDArray[np.int64]) -> tuple[float, float]:
        """0 as the area, and the kind's `choice_loss`."""
        if not len(rows):
            return np.nan, 0.0
        return 0.0, self._kind.choice_loss(self._kind.predictions(raw), self._targets[rows])

    def predictions(self, raw: NDArray[np.float32]) -> FloatArray:
        """The kind's predictions."""
        return self._kind.predictions(raw)

    def kept(self, layer: "nn.Linear | KindLayer") -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weight and bias in the label's unit."""
        assert isinstance(layer, KindLayer)
        weight = layer.weight.detach().float().cpu().numpy().T
        bias = self._kind.biases(layer.free.detach().float().cpu()).numpy()
        weight, bias = self._kind.absorbed(weight, bias)
        return np.ascontiguousarray(weight, np.float32), np.asarray(bias, np.float32)


class KindLayer(nn.Module):
    """Weights (directions, width) and the kind's biases."""

    def __init__(self, kind: Kind, width: int, free: Tensor) -> None:
        super().__init__()
        self._kind, self.out_features = kind, kind.outputs
        self.weight = nn.Parameter(torch.zeros(kind.directions, width))
        self.free = nn.Parameter(free.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, width) -> (B, outputs)."""
        return F.linear(inputs, self.weight) + self._kind.biases(self.free)


def _positive_weights(known: Tensor, maximum: float) -> Tensor:
    """negatives / positives of each task, float32 (T,), in [1 / maximum, maximum]; 1 if a class is absent."""
    positives, negatives = (known == 1).sum(dim=0), (known == 0).sum(dim=0)
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        raise FmctError("fine-tuning: no task has both positive and negative training volumes")
    weights = negatives / positives.clamp(min=1)
    return torch.where(both, weights, torch.ones_like(weights)).clamp(1 / maximum, maximum)


def _cross_entropy(logits: Tensor, labels: Tensor, positive_weights: Tensor) -> Tensor:
    """Binary cross-entropy, mean over the known labels (0 without any)."""
    known = ~labels.isnan()
    losses = F.binary_cross_entropy_with_logits(
        logits, labels.nan_to_num(), pos_weight=positive_weights, reduction="none"
    )
    return (losses * known).sum() / known.sum().clamp(min=1)


def _mean_auc(scores: NDArray[np.float32], labels: NDArray[np.floating]) -> float:
    areas = []
    for column, truth in zip(scores.T, labels.T, strict=True):
        known = ~np.isnan(truth)
        if len(np.unique(truth[known])) == 2:
            areas.append(roc_auc_score(truth[known], column[known]))
    return float(np.mean(areas)) if areas else float("nan")
