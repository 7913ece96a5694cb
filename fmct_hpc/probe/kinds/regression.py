"""Continuous values: ridge regression, and squared error in other heads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmct_hpc.probe.kinds.base import Kind, RawArray, Targets
from fmct_hpc.probe.kinds.path import Path, principal_axes
from fmct_hpc.probe.statistics.curves import Curve, curve_of_means
from fmct_hpc.probe.statistics.predictions import Measure, ScoredPredictions, Sums
from fmct_hpc.probe.statistics.ranks import RankCorrelation
from fmct_hpc.probe.statistics.scored import FloatArray


@dataclass(frozen=True)
class Regression(Kind):
    """Values; targets (N,) float64, predictions (N, 1) in the label's unit.

    Raw outputs are standardised by the training targets, so that learning rates do not depend on the unit.
    """

    centre: float = 0.0
    spread: float = 1.0
    name: ClassVar[str] = "regression"
    figures: ClassVar[tuple[str, ...]] = (
        *("mae", "rmse", "r2", "spearman"),
        *("calibration_slope", "calibration_intercept"),
    )
    greater_is_better: ClassVar[bool] = False

    def targets(self, values: FloatArray, times: FloatArray) -> Targets:
        """The values."""
        return np.nan_to_num(values)

    def values(self, targets: Targets) -> tuple[FloatArray, NDArray[np.bool_] | None]:
        """The targets."""
        return targets, None

    def from_values(self, values: FloatArray, events: NDArray[np.bool_]) -> Targets:
        """The values."""
        return values

    def on(self, targets: Targets) -> Self:
        """The kind with mean and standard deviation of the training targets."""
        return replace(self, centre=float(targets.mean()), spread=float(targets.std()) or 1.0)

    def loss(self, raw: Tensor, targets: Targets) -> Tensor:
        """Half the squared error of standardised values."""
        wanted = torch.from_numpy((targets - self.centre) / self.spread).to(raw.device, raw.dtype)
        return ((raw[:, 0] - wanted) ** 2).sum() / 2

    def predictions(self, raw: RawArray) -> FloatArray:
        """Values in the label's unit."""
        return np.asarray(raw, np.float64) * self.spread + self.centre

    def absorbed(self, weight: FloatArray, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weights and biases in the label's unit."""
        return weight * self.spread, bias * self.spread + self.centre

    def choice_loss(self, predictions: FloatArray, targets: Targets) -> float:
        """Mean squared error."""
        return float(np.mean((predictions[:, 0] - targets) ** 2)) if len(targets) else 0.0

    def votes(self, targets: Targets) -> FloatArray:
        """The values."""
        return targets[:, None]

    def path(self, x: FloatArray, targets: Targets, strengths: Sequence[float]) -> Path:
        """In closed form: ridge regression with scikit-learn's alpha = 1 / C."""
        middle, wanted = x.mean(axis=0), (targets - self.centre) / self.spread
        axes = principal_axes(x - middle)
        along = axes.vectors.T @ ((x - middle).T @ wanted)
        weights = np.stack([axes.vectors @ (along / (axes.squares + 1 / c)) for c in strengths])
        return Path(weights[:, :, None], (wanted.mean() - weights @ middle)[:, None])

    def measure(self, test: ScoredPredictions, training: Targets | None) -> Measure:
        """Mean absolute and root mean squared error, R², Spearman's correlation; calibration.

        Calibration is intercept and slope of truth = intercept + slope · prediction by least squares (Cox
        1958; Steyerberg 2019, section 15.3), ideally 0 and 1. A slope below 1 means predictions that vary too
        much.
        """
        return _Measure(test)

    def curves(self, test: ScoredPredictions, training: Targets) -> list[Curve]:
        """Predicted values, and the means of the true ones."""
        return [curve_of_means("value", test.predictions[:, 0], test.targets, test.patients)]


class _Measure:
    def __init__(self, test: ScoredPredictions) -> None:
        truth, predicted = test.targets, test.predictions[:, 0]
        middle = truth - truth.mean()  # centred, for the precision of the squares
        error = truth - predicted
        columns = [np.ones(len(truth)), middle, middle**2, error**2, np.abs(error)]
        self._means = truth.mean(), predicted.mean()
        own = predicted - self._means[1]
        columns += [own, own**2, own * middle]
        self._sums = Sums(np.column_stack(columns), test.patients)
        self._spearman = RankCorrelation(predicted, truth, test.patients)

    def __call__(self, counts: NDArray[np.uint16]) -> FloatArray:
        sums = self._sums(counts)
        mean, square, error2, error, own, own2, both = (sums[:, 1:] / sums[:, :1]).T
        variance = square - mean**2
        with np.errstate(invalid="ignore", divide="ignore"):
            explained = np.where(variance > 1e-12 * square, 1 - error2 / variance, np.nan)
            spread = own2 - own**2
            slope = np.where(spread > 1e-12 * own2, (both - own * mean) / spread, np.nan)
        intercept = self._means[0] + mean - slope * (self._means[1] + own)
        figures = [error, np.sqrt(error2), explained, self._spearman(counts), slope, intercept]
        return np.stack(figures, axis=1)
