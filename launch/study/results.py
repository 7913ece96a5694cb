"""AUC with intervals, from the cells' scores."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fmct_hpc.probe.statistics.area import Ranking
from fmct_hpc.probe.statistics.bootstrap import resample_counts
from fmct_hpc.probe.statistics.scored import Scored
from launch.study.cells import Heads
from launch.study.cohort import Split
from launch.study.config import StudyConfig
from launch.study.findings import Finding
from launch.study.plan import plan

MEAN = "mean of all"
"""In the column of findings: the mean over all findings."""
TESTS = {"seen": Split.TEST, "unseen": Split.UNSEEN}
"""Test sets by whether their scanners were seen in pretraining and training."""

Key = tuple[str, str, int, float]
"""Arm, method, size, fraction."""


def arm_name(arm: str, method: str) -> str:
    """The display name of an arm with a method."""
    if arm == "scratch":
        return "from scratch"
    if arm in ("mean", "thumbnail"):
        return f"linear on {arm}"
    return f"{arm}, {'fine-tuned' if method == 'finetune' else 'frozen'}"


@dataclass(frozen=True)
class Areas:
    """AUC of one key on one test set; the last column is the mean over findings."""

    by_seed: NDArray[np.float64]
    """(finished seeds, findings + 1), grouped by pretraining: six seeds of three pretrainings in the order 0,
    3, 1, 4, 2, 5."""
    resampled: NDArray[np.float64]
    """(bootstrap, findings + 1), from `resampled_means`."""

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean over seeds, (findings + 1)."""
        return self.by_seed.mean(axis=0)


def areas(config: StudyConfig, out: Path, heads: Heads) -> dict[tuple[Key, str], Areas]:
    """AUC of all finished cells, by key and test set.

    The bootstrap draws heads, pretrainings and their seeds, all with replacement. All keys of a test set
    share the same draws, so that differences are over the same heads.
    """
    scores_of: dict[Key, dict[int, list[NDArray[np.float32]]]] = {}
    for group in plan(config):
        for cell in group.cells:
            file = out / "cells" / cell.file_name
            if file.exists():
                of_key = scores_of.setdefault((cell.arm, cell.method, cell.size, cell.fraction), {})
                of_key.setdefault(group.number, []).append(np.load(file)["scores"])
    known: dict[tuple[Key, str], Areas] = {}
    start = 0
    for test, split in TESTS.items():
        stop = start + len(heads.rows[split])
        truth = heads.labels[heads.rows[split]] == 1
        counts = _counts(config, len(truth))
        for key, pretrainings in scores_of.items():
            each = [
                np.stack([_areas(part[start:stop], truth, counts) for part in scores])
                for scores in pretrainings.values()
            ]
            known[key, test] = Areas(np.concatenate(each)[:, 0], resampled_means(each))
        start = stop
    return known


def results(config: StudyConfig, known: dict[tuple[Key, str], Areas]) -> pa.Table:
    """One row per arm, method, size, fraction, test set and finding.

    auc is the mean over the finished seeds, by_seed has the values; [low, high] is the interval of auc.
    """
    rows: list[dict[str, object]] = []
    for (key, test), own in known.items():
        arm, method, size, fraction = key
        low, high = interval(own.resampled, config)
        rows += [
            {
                **{"arm": arm, "method": method, "size": size, "fraction": fraction, "test": test},
                "finding": finding,
                "auc": float(own.mean[number]),
                "low": float(low[number]),
                "high": float(high[number]),
                "by_seed": own.by_seed[:, number].tolist(),
            }
            for number, finding in enumerate([*(f.value for f in Finding), MEAN])
        ]
    return pa.Table.from_pylist(rows, SCHEMA)


def interval(resampled: NDArray[np.float64], config: StudyConfig) -> NDArray[np.float64]:
    """Limits (2, ...) of the central interval of `config.confidence`, from (bootstrap, ...)."""
    tail = (1 - config.confidence) / 2
    ends: NDArray[np.float64] = np.nanquantile(resampled, [tail, 1 - tail], axis=0)
    return ends


SCHEMA = pa.schema(
    [
        ("arm", pa.string()),
        ("method", pa.string()),
        ("size", pa.int64()),
        ("fraction", pa.float64()),
        ("test", pa.string()),
        ("finding", pa.string()),
        ("auc", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("by_seed", pa.list_(pa.float64())),
    ]
)


def _counts(config: StudyConfig, heads: int) -> list[NDArray[np.uint16]]:
    """Multiplicity of each head: blocks (R, heads); the first is one row of ones, then the resamples."""
    return [np.ones((1, heads), np.uint16), *resample_counts(heads, config.bootstrap, seed=0)]


def mean_area(scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
    """AUC, mean over findings; scores, truth: (heads, findings)."""
    return float(_areas(scores, truth, [np.ones((1, len(truth)), np.uint16)])[0, -1])


def _areas(
    scores: NDArray[np.float32], truth: NDArray[np.bool_], counts: list[NDArray[np.uint16]]
) -> NDArray[np.float64]:
    """AUC (1 + bootstrap, findings + 1); the last column is the mean over findings."""
    heads, one_fold = np.arange(len(scores)), np.zeros(len(scores), np.int64)
    columns = []
    for column, labels in zip(scores.T, truth.T, strict=True):
        ranking = Ranking(Scored(column.astype(np.float64), labels, heads, one_fold))
        columns.append(np.concatenate([ranking.areas(block)[0] for block in counts]))
    return np.stack([*columns, np.mean(columns, axis=0)], axis=1)


def resampled_means(areas: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Means over pretrainings, and their seeds, drawn with replacement: (bootstrap, findings + 1).

    Two stages (Davison and Hinkley 1997, section 3.8): seeds that share a pretraining are not independent.
    """
    generator = np.random.Generator(np.random.Philox(key=1))
    resamples = np.arange(areas[0].shape[1] - 1)
    total = np.zeros((len(resamples), areas[0].shape[2]))
    for place in generator.integers(len(areas), size=(len(areas), len(resamples))):
        for number, pretraining in enumerate(areas):
            chosen = resamples[place == number]
            seeds = generator.integers(len(pretraining), size=(len(chosen), len(pretraining)))
            total[chosen] += pretraining[seeds, 1 + chosen[:, None]].mean(axis=1)
    return total / len(areas)
