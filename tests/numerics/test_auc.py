"""The bootstrap AUC against scikit-learn and against a brute-force bootstrap."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fmct_hpc.probe.statistics import auc_with_intervals, patient_weights, weighted_auc


@pytest.fixture
def cohort() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    patients = np.sort(generator.integers(0, 60, 150))
    patients = np.unique(patients, return_inverse=True)[1]
    labels = generator.random(150) < 0.3
    scores = np.round(labels + generator.normal(0, 1.2, 150), 1)  # rounding makes ties
    return {"patients": patients, "labels": labels, "scores": scores, "folds": patients % 4}


def test_equals_scikit_learn_in_one_fold_with_weights(cohort: dict[str, np.ndarray]) -> None:
    weights = patient_weights(cohort["patients"], 20, seed=3)
    ours = weighted_auc(cohort["scores"], cohort["labels"], np.zeros(150, int), weights)
    theirs = [roc_auc_score(cohort["labels"], cohort["scores"], sample_weight=w) for w in weights]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_counts_only_pairs_inside_a_fold(cohort: dict[str, np.ndarray]) -> None:
    right = pairs = 0.0
    for i in np.flatnonzero(cohort["labels"]):
        for j in np.flatnonzero(~cohort["labels"] & (cohort["folds"] == cohort["folds"][i])):
            right += np.heaviside(cohort["scores"][i] - cohort["scores"][j], 0.5)
            pairs += 1
    ours = weighted_auc(cohort["scores"], cohort["labels"], cohort["folds"], np.ones((1, 150)))
    assert ours[0] == pytest.approx(right / pairs, abs=1e-12)


def test_intervals_equal_a_brute_force_bootstrap_of_patients(cohort: dict[str, np.ndarray]) -> None:
    other = cohort["scores"] + np.random.default_rng(5).normal(0, 2, 150)
    [first, last], [difference, nothing] = auc_with_intervals(
        [cohort["scores"], other],
        cohort["labels"],
        np.zeros(150, int),
        cohort["patients"],
        1500,
        0.95,
        seed=0,
    )
    generator = np.random.default_rng(9)
    members = [np.flatnonzero(cohort["patients"] == p) for p in range(cohort["patients"].max() + 1)]
    draws = []
    for _ in range(1500):
        rows = np.concatenate([members[p] for p in generator.integers(0, len(members), len(members))])
        draws.append([roc_auc_score(cohort["labels"][rows], s[rows]) for s in (cohort["scores"], other)])
    drawn = np.array(draws)
    for interval, column in (
        (first, drawn[:, 0]),
        (last, drawn[:, 1]),
        (difference, drawn[:, 0] - drawn[:, 1]),
    ):
        np.testing.assert_allclose(
            [interval.low, interval.high], np.quantile(column, [0.025, 0.975]), atol=0.02
        )
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)
