"""A measured value: ridge regression, and squared error in other heads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmct_hpc.probe.kinds.base import Kind, RawArray, Targets
from fmct_hpc.probe.kinds.path import Path, principal_axes
from fmct_hpc.probe.statistics.judged import Judged, Measure, Sums
from fmct_hpc.probe.statistics.ranks import RankCorrelation
from fmct_hpc.probe.statistics.scored import FloatArray


@dataclass(frozen=True)
class Regression(Kind):
    """Values; targets (N,) float64, predictions (N, 1) in the label's unit.

    Raw outputs are in deviations from the training volumes' mean, so that rates mean the same for all units.
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
        """As they are."""
        return targets, None

    def retold(self, values: FloatArray, events: NDArray[np.bool_]) -> Targets:
        """As they are."""
        return values

    def on(self, targets: Targets) -> Self:
        """With mean and deviation of the training volumes."""
        return replace(self, centre=float(targets.mean()), spread=float(targets.std()) or 1.0)

    def loss(self, raw: Tensor, targets: Targets) -> Tensor:
        """Half the squared error, in deviations."""
        wanted = torch.from_numpy((targets - self.centre) / self.spread).to(raw.device, raw.dtype)
        return ((raw[:, 0] - wanted) ** 2).sum() / 2

    def predictions(self, raw: RawArray) -> FloatArray:
        """In the label's unit."""
        return np.asarray(raw, np.float64) * self.spread + self.centre

    def absorbed(self, weight: FloatArray, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
        """In the label's unit."""
        return weight * self.spread, bias * self.spread + self.centre

    def choice_loss(self, predictions: FloatArray, targets: Targets) -> float:
        """Mean squared error."""
        return float(np.mean((predictions[:, 0] - targets) ** 2)) if len(targets) else 0.0

    def votes(self, targets: Targets) -> FloatArray:
        """The values."""
        return targets[:, None]

    def path(self, x: FloatArray, targets: Targets, strengths: Sequence[float]) -> Path:
        """In closed form: ridge regression with alpha = 1 / C, as scikit-learn counts it."""
        middle, wanted = x.mean(axis=0), (targets - self.centre) / self.spread
        axes = principal_axes(x - middle)
        along = axes.vectors.T @ ((x - middle).T @ wanted)
        weights = np.stack([axes.vectors @ (along / (axes.squares + 1 / c)) for c in strengths])
        return Path(weights[:, :, None], (wanted.mean() - weights @ middle)[:, None])

    def measure(self, judged: Judged, training: Targets | None) -> Measure:
        """Mean absolute and root mean squared error, R², Spearman's correlation; calibration.

        The latter are of the line truth = intercept + slope · prediction by least squares (Cox 1958;
        Steyerberg 2019, section 15.3): 0 and 1 at best, a slope below 1 of predictions that vary too much.
        """
        return _Measure(judged)


class _Measure:
    def __init__(self, judged: Judged) -> None:
        truth, said = judged.targets, judged.predictions[:, 0]
        middle = truth - truth.mean()  # their squares lose no digits
        columns = [np.ones(len(truth)), middle, middle**2, (truth - said) ** 2, np.abs(truth - said)]
        self._means = truth.mean(), said.mean()
        own = said - self._means[1]
        columns += [own, own**2, own * middle]
        self._sums = Sums(np.column_stack(columns), judged.patients)
        self._spearman = RankCorrelation(said, truth, judged.patients)

    def __call__(self, counts: NDArray[np.uint16]) -> FloatArray:
        sums = self._sums(counts)
        mean, square, error2, error, own, own2, both = (sums[:, 1:] / sums[:, :1]).T
        variance = square - mean**2
        with np.errstate(invalid="ignore", divide="ignore"):
            explained = np.where(variance > 1e-12 * square, 1 - error2 / variance, np.nan)
            spread = own2 - own**2
            slope = np.where(spread > 1e-12 * own2, (both - own * mean) / spread, np.nan)
        intercept = self._means[0] + mean - slope * (self._means[1] + own)
        found = [error, np.sqrt(error2), explained, self._spearman(counts), slope, intercept]
        return np.stack(found, axis=1)
