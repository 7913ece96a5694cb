"""Recalibration of a classifier's scores on validation volumes (Platt 1999)."""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import expit, log_expit, logit

from shards.section import Section

MARGIN = 1e-6
"""Scores are clipped to this distance from 0 and 1, whose logits are infinite."""


class Calibration(Section):
    """probability = expit(slope · logit(score) + intercept)."""

    slope: float
    intercept: float
    volumes: Annotated[int, Field(ge=0)]
    positives: Annotated[int, Field(ge=0)]

    def __call__(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities from scores, (N,) each."""
        return np.asarray(expit(self.slope * _logits(scores) + self.intercept))


def calibrated(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> Calibration | None:
    """Maximum-likelihood slope and intercept on validation volumes; None without both classes.

    The targets are those of Platt (1999, section 2.2): (P + 1) / (P + 2) for P positives and 1 / (N + 2) for
    N negatives. They keep the slope finite if the scores separate the classes.
    """
    from scipy.optimize import minimize

    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return None
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    x = _logits(scores)

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = parameters[0] * x + parameters[1]
        value = -(targets * log_expit(z) + (1 - targets) * log_expit(-z)).sum()
        residual = expit(z) - targets
        return float(value), np.array([residual @ x, residual.sum()])

    slope, intercept = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B").x.tolist()
    return Calibration(slope=slope, intercept=intercept, volumes=len(labels), positives=positives)


def _logits(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(logit(np.clip(scores, MARGIN, 1 - MARGIN)))
