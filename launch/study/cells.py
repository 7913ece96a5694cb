"""A cell of the study: one encoder, method, label fraction and seed, scored on both test sets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from fmct_hpc.probe.problem import Fitted, Problem
from fmct_hpc.probe.store import FeatureStore
from launch.study.cohort import LABELS, Split
from launch.study.config import FrozenConfig
from launch.study.findings import Finding
from shards import Dataset
from shards.atomic import atomic_path

Method = Literal["frozen", "finetune"]
"""Logistic regression on pooled features, or fine-tuning of the whole encoder."""


class Setting(NamedTuple):
    """Fine-tuning settings that replace those of the recipe."""

    lr: float
    steps: int


@dataclass(frozen=True)
class Cell:
    """One cell: the conditions of a result."""

    arm: str
    """Name of an objective, or scratch, untrained, thumbnail, mean."""
    method: Method
    size: int
    """Number of heads in pretraining; 0: no pretraining."""
    fraction: float
    """Fraction of the labelled heads."""
    seed: int
    setting: Setting | None = None
    """Set when tuning; None: the recipe's settings."""

    @property
    def file_name(self) -> str:
        """Name of the file with its scores."""
        setting = f".{self.setting.lr:g}.{self.setting.steps}" if self.setting else ""
        return f"{self.arm}-{self.size}.{self.method}.{self.fraction:g}.{self.seed}{setting}.npz"


@dataclass(frozen=True)
class Heads:
    """The labelled heads, in the order of labels.parquet."""

    labels: NDArray[np.float64]
    """(N, findings), 0 or 1."""
    rows: dict[Split, NDArray[np.int64]]
    order: NDArray[np.int64]
    """Positions of the heads in the dataset."""

    @classmethod
    def read(cls, cohort: Path) -> "Heads":
        """Read the folder that `write_cohort` wrote."""
        table = pq.read_table(cohort / LABELS)
        studies = Dataset.open(cohort / "labelled").index["study_key"].to_pylist()
        place = {study: number for number, study in enumerate(studies)}
        splits = np.array(table["split"].to_pylist())
        return cls(
            np.stack([table[finding.value].to_numpy() for finding in Finding], axis=1).astype(np.float64),
            {split: np.flatnonzero(splits == split.name.lower()) for split in Split},
            np.array([place[study] for study in table["study_key"].to_pylist()]),
        )

    def labelled(self, fraction: float, seed: int) -> NDArray[np.int64]:
        """This fraction of the training heads; for the same seed, smaller fractions are subsets of larger."""
        rows = self.rows[Split.TRAIN]
        generator = np.random.Generator(np.random.Philox(key=[seed, int.from_bytes(b"labelled")]))
        return generator.permutation(rows)[: max(2, round(fraction * len(rows)))]


def pooled(store: FeatureStore, config: FrozenConfig) -> NDArray[np.float32]:
    """The input of fine-tuning's linear layer, from a frozen encoder: (N, pools · width)."""
    parts: list[NDArray[np.float32]] = []
    for pool in config.pool:
        if pool == "max":
            parts.append(store.tokens().max(axis=1).astype(np.float32))
        else:
            parts.append(store.vectors(pool=pool))
    return np.concatenate(parts, axis=1)


def frozen_scores(
    fit: Callable[[Sequence[Problem]], list[Fitted]], heads: Heads, train: NDArray[np.int64], seed: int
) -> NDArray[np.float32]:
    """Probabilities (test heads, findings) of classifiers on frozen features, one classifier per finding.

    A finding without both classes among the training heads gets 0 for all heads.
    """
    tested = score_rows(heads)
    scores = np.zeros((len(tested), heads.labels.shape[1]), np.float32)
    tasks = [task for task, truth in enumerate(heads.labels.T) if len(np.unique(truth[train])) == 2]
    validation, unlabelled = heads.rows[Split.VALIDATION], heads.rows[Split.TRAIN]
    problems = [
        Problem(heads.labels[:, task] == 1, train, validation, tested, unlabelled, seed) for task in tasks
    ]
    for task, fitted in zip(tasks, fit(problems), strict=True):
        scores[:, task] = fitted.scores
    return scores


def save(path: Path, scores: NDArray[np.float32], seconds: float) -> None:
    """Write a cell's scores of both test sets, seen scanners first; the file marks the cell as done."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, scores=scores, seconds=seconds)


def thumbnails(views: torch.Tensor, edge: int = 16) -> NDArray[np.float32]:
    """The views averaged to edge³ voxels, (N, C · edge³): a baseline that reveals shortcuts."""
    small = torch.nn.functional.adaptive_avg_pool3d(views.float(), edge)
    return small.flatten(1).numpy()


def means(views: torch.Tensor) -> NDArray[np.float32]:
    """Mean per window, (N, C)."""
    return views.float().mean(dim=(2, 3, 4)).numpy()


def score_rows(heads: Heads) -> NDArray[np.int64]:
    """Rows of both test sets, seen scanners first."""
    return np.concatenate([heads.rows[Split.TEST], heads.rows[Split.UNSEEN]])
