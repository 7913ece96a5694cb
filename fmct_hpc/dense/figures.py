"""Means over volumes with bootstrap intervals over patients, and paired differences of encoders."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.statistics.bootstrap import Draws, resample_counts
from fmct_hpc.probe.statistics.scored import FloatArray

OF_TRUTH = ("dice", "hd95_mm", "assd_mm", "nsd")
"""Means over the volumes with the class."""
OF_EMPTY = ("false_alarms", "false_ml")
"""Over the volumes without it: the share with at least one predicted voxel, and the mean predicted volume."""
FIGURES = (*OF_TRUTH, *OF_EMPTY)


def draws(rows: Sequence[Mapping[str, Any]], patients: NDArray[np.str_], resamples: int) -> dict[str, Draws]:
    """Each of `FIGURES` on all volumes and on resamples of patients.

    rows: rows of one class from `score.scored`; patients: (N,), their patients. A metric without a volume is
    NaN. The resamples are the same for the same patients, so that metrics of two encoders can be subtracted.
    """
    numbered = np.unique(patients, return_inverse=True)[1]
    count = int(numbered.max(initial=-1)) + 1
    values, held = _columns(rows)
    sums = np.stack([np.bincount(numbered, v * h, count) for v, h in zip(values, held, strict=True)], axis=1)
    counted = np.stack([np.bincount(numbered, h, count) for h in held], axis=1)
    whole = np.ones((1, count))
    with np.errstate(invalid="ignore"):
        value = ((whole @ sums) / (whole @ counted))[0]
        blocks = [(w @ sums) / (w @ counted) for w in resample_counts(count, resamples, seed=0)]
    resampled = np.concatenate(blocks)
    return {name: Draws(float(value[k]), resampled[:, k]) for k, name in enumerate(FIGURES)}


def _columns(rows: Sequence[Mapping[str, Any]]) -> tuple[list[FloatArray], list[FloatArray]]:
    """For each metric, the volumes' values, and 1 where a volume counts."""
    truth = np.array([row["truth_ml"] > 0 for row in rows], np.float64)
    predicted = np.array([row["predicted_ml"] for row in rows], np.float64)
    values = [np.nan_to_num(np.array([row[name] for row in rows], np.float64)) for name in OF_TRUTH]
    values += [(predicted > 0).astype(np.float64), predicted]
    return values, [truth] * len(OF_TRUTH) + [1 - truth] * len(OF_EMPTY)
