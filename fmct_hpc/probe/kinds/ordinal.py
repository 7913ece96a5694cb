"""Ordered classes (grades): the cumulative-link model with proportional odds (McCullagh 1980).

P(grade > k) = sigmoid(w · x + b_k), with the same w for all k and decreasing b_k.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fmct_hpc.probe.kinds.base import PredictionColumns, RawArray, Targets
from fmct_hpc.probe.kinds.classes import Classes
from fmct_hpc.probe.statistics.calibration import CalibrationErrors
from fmct_hpc.probe.statistics.curves import Curve, curve_of_means
from fmct_hpc.probe.statistics.predictions import Measure, ScoredPredictions, Sums
from fmct_hpc.probe.statistics.ranks import RankCorrelation
from fmct_hpc.probe.statistics.scored import FloatArray


@dataclass(frozen=True)
class Ordinal(Classes):
    """Classes ordered by their numbers."""

    name: ClassVar[str] = "ordinal"
    figures: ClassVar[tuple[str, ...]] = ("kappa_quadratic", "mae", "spearman", "rps", "ece")
    inflated: ClassVar[tuple[str, ...]] = ("ece",)

    @property
    def outputs(self) -> int:
        """The logits of being above each class except the last."""
        return len(self.numbers) - 1

    def start(self, targets: Targets) -> Tensor:
        """From the class frequencies; see `biases`."""
        from scipy.special import logit  # every rank of a training imports this module

        counts = np.bincount(targets, minlength=len(self.numbers)).clip(0.5)
        above = logit(1 - counts.cumsum()[:-1] / counts.sum())
        return torch.from_numpy(np.append(above[:1], np.log(-np.diff(above)))).float()

    def biases(self, free: Tensor) -> Tensor:
        """The first bias; each following one is lower by the exponential of its parameter."""
        return torch.cat([free[:1], free[:1] - free[1:].exp().cumsum(0)])

    def loss(self, raw: Tensor, targets: Targets) -> Tensor:
        """Negative logarithm of sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))."""
        places = torch.from_numpy(targets).to(raw.device)[:, None]
        last = raw.shape[1]
        # Above the class below the true one, and not above the true one.
        over = raw.gather(1, (places - 1).clamp(min=0))[:, 0]
        under = raw.gather(1, places.clamp(max=last - 1))[:, 0]
        lowest, highest = places[:, 0] == 0, places[:, 0] == last
        zero = torch.zeros_like(over)
        middle = lowest | highest
        apart = torch.where(middle, torch.ones_like(over), over - under).clamp(min=1e-12)
        likelihood = torch.where(lowest, zero, F.logsigmoid(over))
        likelihood = likelihood + torch.where(highest, zero, F.logsigmoid(-under))
        likelihood = likelihood + torch.where(middle, zero, torch.log(-torch.expm1(-apart)))
        return -likelihood.sum()

    def predictions(self, raw: RawArray) -> FloatArray:
        """Probabilities of the classes: differences of the sigmoids."""
        above = torch.sigmoid(torch.from_numpy(np.asarray(raw)).double()).numpy()
        bounded = np.concatenate([np.ones((len(above), 1)), above, np.zeros((len(above), 1))], axis=1)
        return np.maximum(-np.diff(bounded, axis=1), 0)

    def median(self, predictions: FloatArray) -> NDArray[np.int64]:
        """The index of the median class, (N,), which minimises the expected absolute error."""
        return (predictions.cumsum(axis=1) < 0.5 - 1e-12).sum(axis=1).clip(max=len(self.numbers) - 1)

    def expected(self, predictions: FloatArray) -> FloatArray:
        """The expected class, (N,), with classes numbered from 0."""
        return np.asarray(predictions @ np.arange(len(self.numbers)))

    def measure(self, test: ScoredPredictions, training: Targets | None) -> Measure:
        """Cohen's kappa with quadratic weights, absolute error, Spearman's correlation of the expected class.

        Classes are numbered from 0 in their order, whatever their numbers in the table. Calibration is of the
        probabilities of being above each class except the last: the ranked probability score (Epstein 1969)
        divided by their number, and their mean calibration error.
        """
        return _Measure(self, test)

    def curves(self, test: ScoredPredictions, training: Targets) -> list[Curve]:
        """Of each grade but the last: the probability of a higher one, and the share that has one."""
        above = 1 - test.predictions.cumsum(axis=1)
        return [
            curve_of_means(
                f"above {number}",
                above[:, place],
                (test.targets > place).astype(np.float64),
                test.patients,
            )
            for place, number in enumerate(self.numbers[:-1])
        ]

    def columns(self, predictions: FloatArray) -> list[PredictionColumns]:
        """The median class; the expected class, from 0, as the score; all probabilities."""
        return [
            PredictionColumns(score, float(self.numbers[place]), tuple(row.tolist()))
            for row, place, score in zip(
                predictions,
                self.median(predictions).tolist(),
                self.expected(predictions).tolist(),
                strict=True,
            )
        ]


class _Measure:
    def __init__(self, kind: Ordinal, test: ScoredPredictions) -> None:
        truth, median = test.targets.astype(np.float64), kind.median(test.predictions).astype(np.float64)
        columns = [np.ones_like(truth), truth, median, truth**2, median**2, (truth - median) ** 2]
        columns.append(np.abs(truth - median))
        grades = np.arange(len(kind.numbers) - 1)
        predicted = 1 - test.predictions.cumsum(axis=1)[:, :-1]
        observed = (truth[:, None] > grades).astype(np.float64)
        columns.append(((predicted - observed) ** 2).mean(axis=1))
        self._errors = CalibrationErrors(predicted, observed, test.patients)
        self._sums = Sums(np.column_stack(columns), test.patients)
        self._spearman = RankCorrelation(kind.expected(test.predictions), truth, test.patients)

    def __call__(self, counts: NDArray[np.uint16]) -> FloatArray:
        sums = self._sums(counts)
        truth, median, truth2, median2, apart2, apart, score = (sums[:, 1:] / sums[:, :1]).T
        # Cohen (1968): 1 - observed / expected; the expected squared distance of two independent raters.
        expected = truth2 + median2 - 2 * truth * median
        with np.errstate(invalid="ignore", divide="ignore"):
            kappa = np.where(expected > 0, 1 - apart2 / expected, np.nan)
        error = self._errors(counts).mean(axis=1)
        return np.stack([kappa, apart, self._spearman(counts), score, error], axis=1)
