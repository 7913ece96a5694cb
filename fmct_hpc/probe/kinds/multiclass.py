"""Unordered classes: multinomial logistic regression, one-vs-rest areas."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fmct_hpc.probe.kinds.base import PredictionColumns, RawArray, Targets
from fmct_hpc.probe.kinds.classes import Classes
from fmct_hpc.probe.statistics.area import Ranking
from fmct_hpc.probe.statistics.calibration import CalibrationErrors
from fmct_hpc.probe.statistics.curves import Curve, curve_of_means
from fmct_hpc.probe.statistics.predictions import Measure, ScoredPredictions, Sums
from fmct_hpc.probe.statistics.scored import FloatArray, Scored


@dataclass(frozen=True)
class Multiclass(Classes):
    """Unordered classes."""

    name: ClassVar[str] = "multiclass"
    figures: ClassVar[tuple[str, ...]] = (
        *("auc_macro", "balanced_accuracy", "log_loss"),
        *("brier", "ece", "ece_classwise"),
    )
    inflated: ClassVar[tuple[str, ...]] = ("ece", "ece_classwise")

    @property
    def outputs(self) -> int:
        """One logit per class."""
        return len(self.numbers)

    @property
    def directions(self) -> int:
        """One column per class."""
        return len(self.numbers)

    def start(self, targets: Targets) -> Tensor:
        """The logarithms of the class frequencies."""
        counts = np.bincount(targets, minlength=len(self.numbers)).clip(0.5)
        logs = np.log(counts / counts.sum())
        return torch.from_numpy(logs - logs.mean()).float()

    def loss(self, raw: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy of the softmax."""
        return F.cross_entropy(raw, torch.from_numpy(targets).to(raw.device), reduction="sum")

    def predictions(self, raw: RawArray) -> FloatArray:
        """The softmax."""
        return np.asarray(torch.from_numpy(np.asarray(raw)).double().softmax(dim=-1).numpy())

    def measure(self, test: ScoredPredictions, training: Targets | None) -> Measure:
        """Mean one-vs-rest area, balanced accuracy, log loss; calibration.

        Calibration: the squared distance of probabilities and one-hot class (Brier 1950), the calibration
        error of the most probable class (Guo et al. 2017), and the mean of all classes' (Kull et al. 2019).
        """
        return _Measure(self, test)

    def curves(self, test: ScoredPredictions, training: Targets) -> list[Curve]:
        """Of each class: its probability, and the share of volumes that have it."""
        return [
            curve_of_means(
                f"class {number}",
                test.predictions[:, place],
                (test.targets == place).astype(np.float64),
                test.patients,
            )
            for place, number in enumerate(self.numbers)
        ]

    def columns(self, predictions: FloatArray) -> list[PredictionColumns]:
        """The most probable class, its probability as the score, and all probabilities."""
        best = predictions.argmax(axis=1)
        return [
            PredictionColumns(float(row[place]), float(self.numbers[place]), tuple(row.tolist()))
            for row, place in zip(predictions, best.tolist(), strict=True)
        ]


class _Measure:
    """Means over the classes in a resample, as in scikit-learn's balanced accuracy."""

    def __init__(self, kind: Multiclass, test: ScoredPredictions) -> None:
        targets, count = test.targets, len(kind.numbers)
        self._rankings = [
            Ranking(Scored(test.predictions[:, k], targets == k, test.patients, test.folds))
            for k in range(count)
        ]
        there = np.eye(count)[targets]
        right = there * (test.predictions.argmax(axis=1) == targets)[:, None]
        loss = -np.log(kind.of_truth(test.predictions, targets))
        distance = ((test.predictions - there) ** 2).sum(axis=1)
        self._sums = Sums(np.column_stack([there, right, loss, distance]), test.patients)
        self._count = count
        sure = test.predictions.max(axis=1)
        self._errors = CalibrationErrors(
            np.column_stack([sure, test.predictions]),
            np.column_stack([right.sum(axis=1), there]),
            test.patients,
        )

    def __call__(self, counts: NDArray[np.uint16]) -> FloatArray:
        areas = np.stack([ranking.areas(counts)[0] for ranking in self._rankings], axis=1)
        sums = self._sums(counts)
        there, right = sums[:, : self._count], sums[:, self._count : -2]
        with np.errstate(invalid="ignore", divide="ignore"):
            recalls = right / there
        errors = self._errors(counts)
        means = sums[:, -2:] / there.sum(axis=1, keepdims=True)
        calibration = [errors[:, 0], errors[:, 1:].mean(axis=1)]
        return np.stack([_mean(areas), _mean(recalls), *means.T, *calibration], axis=1)


def _mean(columns: FloatArray) -> FloatArray:
    """Row means, ignoring NaN; NaN for a row of NaN only."""
    known = ~np.isnan(columns)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, columns, 0).sum(axis=1) / known.sum(axis=1))
