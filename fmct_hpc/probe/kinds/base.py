"""Base class of a kind of label, which defines predictions, loss and metrics; one subclass per file.

Linear, attentive and fine-tuned heads return raw outputs (B, outputs); a kind defines their loss and maps
them to predictions. A head's weights have `directions` columns: one per output, or one shared by all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmct_hpc.probe.kinds.path import Path, fit_path
from fmct_hpc.probe.statistics.curves import Curve
from fmct_hpc.probe.statistics.predictions import Measure, ScoredPredictions
from fmct_hpc.probe.statistics.scored import FloatArray, IntArray

Targets = NDArray[Any]
"""(N,), or (N, 2) with time and event; one row per volume. Undefined where the label is unknown."""


RawArray = NDArray[np.floating[Any]]


class PredictionColumns(NamedTuple):
    """One prediction in the columns of a table."""

    score: float
    value: float | None = None
    probabilities: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Kind:
    """Interface of all kinds."""

    name: ClassVar[str]
    figures: ClassVar[tuple[str, ...]]
    """Names of the metrics of `measure`; encoders are compared by the first."""
    greater_is_better: ClassVar[bool] = True
    """For the first metric."""
    inflated: ClassVar[tuple[str, ...]] = ()
    """Metrics that noise increases; their intervals are centred (`Draws.interval`)."""

    @classmethod
    def over(cls, values: FloatArray) -> Self:
        """The kind for a label column with these known values."""
        return cls()

    @property
    def classes(self) -> tuple[int, ...]:
        """Numbers of the classes in the order of the probabilities; empty for kinds without classes."""
        return ()

    @property
    def outputs(self) -> int:
        """Number of raw outputs, each with a bias."""
        return 1

    @property
    def directions(self) -> int:
        """Number of columns of the weights."""
        return 1

    def targets(self, values: FloatArray, times: FloatArray) -> Targets:
        """Targets from a label column and its column of times (NaN for kinds without times)."""
        raise NotImplementedError

    def values(self, targets: Targets) -> tuple[FloatArray, NDArray[np.bool_] | None]:
        """The label's values in a table of predictions, and, for a time to event, the events."""
        raise NotImplementedError

    def from_values(self, values: FloatArray, events: NDArray[np.bool_]) -> Targets:
        """Targets from the arrays returned by `values`."""
        raise NotImplementedError

    def strata(self, targets: Targets) -> IntArray:
        """(N,) from 0; label budgets and folds are stratified by these."""
        return np.zeros(len(targets), np.int64)

    def stratum_names(self) -> Sequence[str]:
        """Names of the strata, for `{} training patients`; training requires patients of each."""
        return ("labelled",)

    def on(self, targets: Targets) -> Self:
        """The kind with parameters from the training targets, such as their standard deviation."""
        return self

    def start(self, targets: Targets) -> Tensor:
        """Initial free parameters of the biases, float32 (outputs,)."""
        return torch.zeros(self.outputs)

    def biases(self, free: Tensor) -> Tensor:
        """Biases (outputs,) from the free parameters."""
        return free

    def loss(self, raw: Tensor, targets: Targets) -> Tensor:
        """Negative log-likelihood, up to a constant, summed over the volumes: raw (B, outputs) -> ()."""
        raise NotImplementedError

    def predictions(self, raw: RawArray) -> FloatArray:
        """(N, outputs) -> (N, P): probabilities of the classes, or one value."""
        raise NotImplementedError

    def absorbed(self, weight: FloatArray, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weights (..., directions) and biases with the parameters of `on` absorbed."""
        return weight, bias

    def choice_loss(self, predictions: FloatArray, targets: Targets) -> float:
        """The criterion that methods minimise on validation volumes: predictions (N, P); 0 if N is 0."""
        raise NotImplementedError

    def votes(self, targets: Targets) -> FloatArray:
        """Values averaged over nearest neighbours, (N, P); for kinds supported by `neighbours`."""
        raise NotImplementedError

    def measure(self, test: ScoredPredictions, training: Targets | None) -> Measure:
        """The metrics of a test set, as a function of resamples.

        training: targets of the training volumes; None if only the first metric is required. Metrics that
        need more than predictions, such as a baseline hazard, estimate it on `test.validation`.
        """
        raise NotImplementedError

    def curves(self, test: ScoredPredictions, training: Targets) -> list[Curve]:
        """The reliability curves of a test set; training: targets of the training volumes."""
        return []

    def at(self, training: Targets) -> dict[str, float]:
        """The point at which a metric is evaluated, by its name, such as the horizon of an area."""
        return {}

    def columns(self, predictions: FloatArray) -> list[PredictionColumns]:
        """Table columns of predictions (N, P)."""
        return [PredictionColumns(float(value), float(value)) for value in predictions[:, 0]]

    def path(self, x: FloatArray, targets: Targets, strengths: Sequence[float]) -> Path:
        """Weights and biases that minimise ½ ‖w‖² + C Σ loss for each strength C: x (N, D)."""
        return fit_path(self, x, targets, strengths)
