"""A cell of a sweep, and a test set with the predictions of its classifiers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.budget import Parts
from fmct_hpc.probe.kinds import BINARY, Kind
from fmct_hpc.probe.kinds.base import Targets
from fmct_hpc.probe.problem import Fitted

Row = dict[str, object]


@dataclass(frozen=True)
class Cell:
    """A task and seed of a unit: one classifier, or one per fold."""

    task: str
    seed: int
    folds: list[Parts]
    labels: Targets
    kind: Kind = BINARY


@dataclass(frozen=True)
class Test:
    """A test set with the predictions of one cell's classifiers, joined over the folds."""

    __test__ = False  # not a pytest class

    cell: Cell
    split: str
    rows: NDArray[np.int64]
    predictions: NDArray[np.float64]
    """(N,) for binary labels, else (N, P)."""
    patients: NDArray[np.int64]
    """(N,), numbered from 0."""
    folds: NDArray[np.int64]
    """(N,)"""
    fitted: Sequence[Fitted]
    """One per fold."""

    @property
    def targets(self) -> Targets:
        """(N, ...)"""
        return self.cell.labels[self.rows]

    def counted(self) -> Row:
        """The columns common to all kinds of label."""
        folds = self.cell.folds
        return {
            "task": self.cell.task,
            "seed": self.cell.seed,
            "split": self.split,
            "n_train": round(float(np.mean([len(parts.train) for parts in folds]))),
            "n_validation": round(float(np.mean([len(parts.validation) for parts in folds]))),
            "n": len(self.rows),
            "patients": int(self.patients.max()) + 1,
            "chosen": json.dumps([fitted.chosen for fitted in self.fitted]),
        }
