"""Weighted votes of the nearest training volumes (Wu et al. 2018, as in the evaluation of DINO)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmct_hpc.probe.heads import Head, Scaling
from fmct_hpc.probe.kinds import BINARY, Kind
from fmct_hpc.probe.methods.neighbours import NeighboursConfig
from fmct_hpc.probe.problem import Fitted, Problem, by_unlabelled

ROWS_AT_ONCE = 1024
"""Volumes per block of similarities: 40 MB for 10,000 training volumes."""


@dataclass(frozen=True)
class VotesHead(Head):
    """A nearest-neighbour classifier: the training volumes and their labels."""

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    unit: NDArray[np.float32]
    """(N, width), rows of length 1."""
    labels: NDArray[Any]
    """(N,) bool; for labels that are not binary the averaged values, float64 (N, P)."""
    rows: NDArray[np.int64]
    """The voting rows of the N, since the heads of many problems share one matrix."""
    count: int
    temperature: float

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The fields, reduced to the voting rows."""
        voting = {
            "unit": self.unit[self.rows],
            "labels": self.labels[self.rows],
            "rows": np.arange(len(self.rows)),
        }
        return super().arrays() | voting

    def scores(self, inputs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Predictions from pooled features (B, width)."""
        queries = Scaling(self.mean, self.scale).directions(inputs)
        voting, labels = torch.from_numpy(self.unit[self.rows]), torch.from_numpy(self.labels[self.rows])
        return _votes(queries, voting, labels, [int(self.count)], float(self.temperature))[0]

    def predicted(self, inputs: NDArray[np.floating[Any]], kind: Kind) -> NDArray[np.float64]:
        """The votes are predictions already."""
        return self.scores(inputs)


def neighbours(
    features: NDArray[np.floating[Any]], problems: Sequence[Problem], config: NeighboursConfig
) -> list[Fitted]:
    """Predict with every number of neighbours, and keep the number with the lowest validation loss.

    Similarity is the cosine between standardised features. The raw features of a transformer have a large
    common mean, so that all their cosines are nearly 1.
    """
    fitted: list[Fitted | None] = [None] * len(problems)
    for group in by_unlabelled(problems):
        scaling = Scaling.over(features, problems[group[0]].unlabelled)
        unit = scaling.directions(features)
        for i in group:
            fitted[i] = _choose(scaling, unit, problems[i], config)
    return [found for found in fitted if found is not None]


def _choose(scaling: Scaling, unit: Tensor, problem: Problem, config: NeighboursConfig) -> Fitted:
    counts = sorted({min(count, len(problem.train)) for count in config.counts})
    rows = np.concatenate([problem.validation, problem.scored])
    kind, truth = problem.kind, problem.labels[problem.validation]
    labels = problem.labels if kind == BINARY else kind.votes(problem.labels)
    voting = torch.from_numpy(labels[problem.train])
    votes = _votes(unit[rows], unit[problem.train], voting, counts, config.temperature)
    on_validation = votes[:, : len(problem.validation)]
    best = int(np.argmin([kind.choice_loss(predicted, truth) for predicted in on_validation]))
    scores = votes[best, len(problem.validation) :]
    chosen = {"neighbours": float(counts[best])}
    head = VotesHead(*scaling, unit.numpy(), labels, problem.train, counts[best], config.temperature)
    return Fitted(on_validation[best], scores, chosen, head)


def _votes(
    queries: Tensor, voting: Tensor, labels: Tensor, counts: Sequence[int], temperature: float
) -> NDArray[np.float64]:
    """Weighted share of positive votes for each number of neighbours: (counts, queries).

    queries, voting: features of length 1, (rows, width). labels: of the voting rows, bool, or (rows, P); the
    result is then their weighted mean, (counts, queries, P).
    """
    votes = np.empty((len(counts), len(queries), *labels.shape[1:]))
    for start in range(0, len(queries), ROWS_AT_ONCE):
        part = queries[start : start + ROWS_AT_ONCE]
        similar, nearest = (part @ voting.T).topk(max(counts), dim=1)
        # A common factor against overflow; it cancels in the shares.
        weights = torch.exp((similar - similar[:, :1]).double() / temperature)
        weights = weights.reshape(*weights.shape, *(1 for _ in labels.shape[1:]))
        positive, every = (weights * labels[nearest].double()).cumsum(dim=1), weights.cumsum(dim=1)
        for place, count in enumerate(counts):
            shares = positive[:, count - 1] / every[:, count - 1]
            votes[place, start : start + len(part)] = shares.numpy()
    return votes
