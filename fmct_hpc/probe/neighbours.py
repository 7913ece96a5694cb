"""Weighted votes of the nearest training volumes (Wu et al. 2018, as DINO evaluates)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from fmct_hpc.probe.config import NeighboursConfig
from fmct_hpc.probe.problem import Fitted, Problem, by_unlabelled, log_loss, standardised

ROWS_AT_ONCE = 1024
"""Volumes whose similarities are in memory at a time: 40 MB against 10,000 training volumes."""


def neighbours(
    features: NDArray[np.floating[Any]], problems: Sequence[Problem], config: NeighboursConfig
) -> list[Fitted]:
    """Let neighbours vote at every count, and keep the count of least `log_loss` on validation.

    Similarity is the cosine between standardised features: as they come, those of a transformer share one
    large mean, beside which all cosines are nearly 1.
    """
    fitted: list[Fitted | None] = [None] * len(problems)
    for group in by_unlabelled(problems):
        x = standardised(features, problems[group[0]].unlabelled)
        unit = normalize(torch.from_numpy(x), dim=1)
        for i in group:
            fitted[i] = _choose(unit, problems[i], config)
    return [found for found in fitted if found is not None]


def _choose(unit: Tensor, problem: Problem, config: NeighboursConfig) -> Fitted:
    counts = sorted({min(count, len(problem.train)) for count in config.counts})
    rows = np.concatenate([problem.validation, problem.scored])
    votes = _votes(unit, problem, rows, counts, config.temperature)
    on_validation = votes[:, : len(problem.validation)]
    best = int(np.argmin(log_loss(on_validation, problem.labels[problem.validation])))
    scores = votes[best, len(problem.validation) :]
    return Fitted(on_validation[best], scores, {"neighbours": float(counts[best])})


def _votes(
    unit: Tensor, problem: Problem, rows: NDArray[np.int64], counts: Sequence[int], temperature: float
) -> NDArray[np.float64]:
    """Share of the votes that positives have, for each count of neighbours: (counts, rows)."""
    train = unit[problem.train]
    labels = torch.from_numpy(problem.labels[problem.train]).double()
    votes = np.empty((len(counts), len(rows)))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = torch.from_numpy(rows[start : start + ROWS_AT_ONCE])
        similar, who = (unit[part] @ train.T).topk(max(counts), dim=1)
        # A common factor, against overflow, changes no share.
        weights = torch.exp((similar - similar[:, :1]).double() / temperature)
        positive, every = (weights * labels[who]).cumsum(dim=1), weights.cumsum(dim=1)
        for place, count in enumerate(counts):
            shares = positive[:, count - 1] / every[:, count - 1]
            votes[place, start : start + len(part)] = shares.numpy()
    return votes
