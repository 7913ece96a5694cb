"""The online probe: two classifiers without hyperparameter selection, evaluated during training."""

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.logistic import logistic
from fmct_hpc.probe.methods.logistic import LogisticConfig
from fmct_hpc.probe.methods.neighbours import NeighboursConfig
from fmct_hpc.probe.neighbours import neighbours
from fmct_hpc.probe.online_cohort import OnlineCohort
from fmct_hpc.probe.problem import Problem
from fmct_hpc.probe.statistics.area import auc
from fmct_hpc.probe.statistics.scored import Scored

NEIGHBOURS = NeighboursConfig(counts=(20,))
"""Caron et al. 2021, section 3.2: 20 is best for most of their runs."""
LOGISTIC = LogisticConfig(strengths=(1e-2,))
"""A single strength, to make steps comparable; strong, for hundreds of volumes with a thousand channels."""


def online_areas(features: NDArray[np.float32], cohort: OnlineCohort) -> dict[str, float]:
    """Areas under ROC curves by metric: probe_knn and probe_linear, and probe_knn/LABEL, probe_linear/LABEL.

    features: (N, width) of the cohort's volumes. Areas are computed within each half and averaged, weighted
    by the number of pairs; labels have equal weights.
    """
    problems = []
    for values in cohort.values.T:
        known = ~np.isnan(values)
        for half in (0, 1):
            fitted, scored = (np.flatnonzero(known & (cohort.halves == h)) for h in (half, 1 - half))
            everyone = np.flatnonzero(cohort.halves == half)
            none = np.empty(0, np.int64)
            problems.append(Problem(values == 1, fitted, none, scored, everyone, seed=0))
    numbers = np.unique(cohort.patients, return_inverse=True)[1]
    areas_by_metric: dict[str, float] = {}
    fits = {
        "knn": neighbours(features, problems, NEIGHBOURS),
        "linear": logistic(features, problems, LOGISTIC),
    }
    for name, fitted_all in fits.items():
        areas = []
        for task, start in zip(cohort.tasks, range(0, len(problems), 2), strict=True):
            pair, rows = fitted_all[start : start + 2], [p.scored for p in problems[start : start + 2]]
            both = np.concatenate(rows)
            scores = np.concatenate([one.scores for one in pair])
            labels = problems[start].labels[both]
            areas.append(auc(Scored(scores, labels, numbers[both], cohort.halves[both])))
            areas_by_metric[f"probe_{name}/{task}"] = areas[-1]
        areas_by_metric[f"probe_{name}"] = float(np.mean(areas))
    return areas_by_metric
