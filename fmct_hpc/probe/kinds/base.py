"""A kind of label: what it predicts, by which loss, and how that is judged. A kind is a subclass, in a file.

Linear, attentive and fine-tuned heads give raw outputs (B, outputs); a kind turns them into predictions, and
says what they lose. A head's weights have `directions` columns: one for each output, or one that all share.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmct_hpc.probe.kinds.path import Path, fit_path
from fmct_hpc.probe.statistics.judged import Judged, Measure
from fmct_hpc.probe.statistics.scored import FloatArray, IntArray

Targets = NDArray[Any]
"""(N,), or (N, 2) of time and event; by rows of volumes. Where unknown, anything."""


RawArray = NDArray[np.floating[Any]]


class Said(NamedTuple):
    """What a table has of one prediction."""

    score: float
    value: float | None = None
    probabilities: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Kind:
    """What all kinds have in common."""

    name: ClassVar[str]
    figures: ClassVar[tuple[str, ...]]
    """Names of what `measure` gives; encoders are compared by the first."""
    greater_is_better: ClassVar[bool] = True
    """Of the first figure."""
    inflated: ClassVar[tuple[str, ...]] = ()
    """Figures that noise makes greater, whose intervals are centred (`Draws.interval`)."""

    @classmethod
    def over(cls, values: FloatArray) -> Self:
        """The kind for a column whose known values are these."""
        return cls()

    @property
    def classes(self) -> tuple[int, ...]:
        """Numbers of the classes in the order of the probabilities; none where there are no classes."""
        return ()

    @property
    def outputs(self) -> int:
        """How many raw outputs, each with its bias."""
        return 1

    @property
    def directions(self) -> int:
        """Columns of the weights."""
        return 1

    def targets(self, values: FloatArray, times: FloatArray) -> Targets:
        """What is to be predicted, of a label column and of its column of times (NaN of other kinds)."""
        raise NotImplementedError

    def values(self, targets: Targets) -> tuple[FloatArray, NDArray[np.bool_] | None]:
        """The label's values as a table of predictions has them, and events of a time to event."""
        raise NotImplementedError

    def retold(self, values: FloatArray, events: NDArray[np.bool_]) -> Targets:
        """The targets of what `values` gave."""
        raise NotImplementedError

    def strata(self, targets: Targets) -> IntArray:
        """(N,) from 0: a label budget and folds take volumes of each stratum alike."""
        return np.zeros(len(targets), np.int64)

    def stratum_names(self) -> Sequence[str]:
        """Of the strata, for `{} training patients`; each must be there to learn from."""
        return ("labelled",)

    def on(self, targets: Targets) -> Self:
        """The kind with what it takes from the training volumes' targets, such as their spread."""
        return self

    def start(self, targets: Targets) -> Tensor:
        """Free parameters of the biases to begin at, float32 (outputs,)."""
        return torch.zeros(self.outputs)

    def biases(self, free: Tensor) -> Tensor:
        """Biases (outputs,) of the free parameters."""
        return free

    def loss(self, raw: Tensor, targets: Targets) -> Tensor:
        """Negative log-likelihood, up to a constant, summed over the volumes: raw (B, outputs) -> ()."""
        raise NotImplementedError

    def predictions(self, raw: RawArray) -> FloatArray:
        """(N, outputs) -> (N, P): probabilities of the classes, or one value."""
        raise NotImplementedError

    def absorbed(self, weight: FloatArray, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weights (..., directions) and biases of a head for the kind as `over` gives it."""
        return weight, bias

    def choice_loss(self, predictions: FloatArray, targets: Targets) -> float:
        """What methods choose by on validation volumes: predictions (N, P); 0 without volumes."""
        raise NotImplementedError

    def votes(self, targets: Targets) -> FloatArray:
        """What neighbours' weighted mean is taken of, (N, P); of kinds that neighbours can learn."""
        raise NotImplementedError

    def measure(self, judged: Judged, training: Targets | None) -> Measure:
        """The figures of a test set, to be taken of many resamples.

        training: targets of the training volumes; None where the first figure is enough. Figures that need
        more than predictions say, such as a baseline hazard, take it of `judged.validation`.
        """
        raise NotImplementedError

    def at(self, training: Targets) -> dict[str, float]:
        """Where a figure is taken, by its name, such as the horizon of an area."""
        return {}

    def said(self, predictions: FloatArray) -> list[Said]:
        """What a table has of predictions (N, P)."""
        return [Said(float(value), float(value)) for value in predictions[:, 0]]

    def path(self, x: FloatArray, targets: Targets, strengths: Sequence[float]) -> Path:
        """Weights and biases that minimise ½ ‖w‖² + C Σ loss for each strength C: x (N, D)."""
        return fit_path(self, x, targets, strengths)
