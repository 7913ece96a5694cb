"""L2-penalised linear models for labels that are not binary.

Strengths are those of `fmct_hpc.probe.logistic`: ½ ‖w‖² + C Σ loss on standardised features, biases not
penalised.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.heads import LinearHead, Scaling
from fmct_hpc.probe.methods.logistic import LogisticConfig
from fmct_hpc.probe.problem import Fitted, Problem, by_unlabelled


def penalised(
    features: NDArray[np.floating[Any]], problems: Sequence[Problem], config: LogisticConfig
) -> list[Fitted]:
    """Fit every problem at every strength, and keep that with the lowest `choice_loss` on validation."""
    fitted: list[Fitted | None] = [None] * len(problems)
    for group in by_unlabelled(problems):
        scaling = Scaling.over(features, problems[group[0]].unlabelled)
        x = scaling(features)
        for number in group:
            fitted[number] = _fit_and_choose(x, scaling, problems[number], config.strengths)
    return [found for found in fitted if found is not None]


def _fit_and_choose(
    x: NDArray[np.float32], scaling: Scaling, problem: Problem, strengths: Sequence[float]
) -> Fitted:
    targets = problem.labels[problem.train]
    plain, kind = problem.kind, problem.kind.on(targets)
    path = kind.path(x[problem.train].astype(np.float64), targets, strengths)
    heads, losses = [], []
    for weight, bias in zip(path.weights, path.biases, strict=True):
        kept = kind.absorbed(weight, bias)
        heads.append(LinearHead(*scaling, *(part.astype(np.float32) for part in kept)))
        predictions = plain.predictions(x[problem.validation] @ heads[-1].weight + heads[-1].bias)
        losses.append(plain.choice_loss(predictions, problem.labels[problem.validation]))
    best = int(np.argmin(losses))
    weight, bias = heads[best].weight, heads[best].bias
    validation, scores = (
        plain.predictions(x[rows] @ weight + bias) for rows in (problem.validation, problem.scored)
    )
    return Fitted(validation, scores, {"strength": float(strengths[best])}, heads[best])
