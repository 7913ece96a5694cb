"""Retrieval against scikit-learn, one question at a time, and chance against all rankings."""

from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from fmct_hpc.retrieval import measure
from fmct_hpc.retrieval.measure import KS, ask, drawn, unit_features

VOLUMES, TASKS = 90, 3


@pytest.fixture(scope="module")
def heads() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features that tell the first label, patients with several volumes, and labels, some of them unknown."""
    generator = np.random.default_rng(0)
    patients = np.sort(generator.integers(0, 40, VOLUMES))
    labels = (generator.random((VOLUMES, TASKS)) < (0.4, 0.1, 0.5)).astype(float)
    labels[generator.random((VOLUMES, TASKS)) < 0.15] = np.nan
    labels[:, 2] = np.where(patients == patients[50], 1.0, 0.0)  # one patient alone
    x = generator.normal(3, 1, (VOLUMES, 12))
    x[:, 0] += 2 * np.nan_to_num(labels[:, 0])
    x += generator.normal(0, 1, (40, 12))[patients]  # whose volumes resemble one another
    return x.astype(np.float32), patients, labels


@pytest.mark.parametrize("at_once", [1, 300, 2**24])
def test_each_question_has_the_precision_and_recall_of_scikit_learn(
    heads: tuple, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "AT_ONCE", at_once)
    x, patients, labels = heads
    unit = unit_features(x, np.arange(60))
    scaled = (x - x[:60].mean(axis=0)) / x[:60].std(axis=0)
    cosines = scaled @ scaled.T / np.linalg.norm(scaled, axis=1) / np.linalg.norm(scaled, axis=1)[:, None]
    found = ask(unit, patients, labels)
    for own, asked in zip(labels.T, found, strict=True):
        expected, recalls, who = [], [], []
        for row in np.flatnonzero(own == 1):
            others = (patients != patients[row]) & ~np.isnan(own)
            truth = own[others] == 1
            if truth.any():
                expected.append(average_precision_score(truth, cosines[row, others]))
                ranked = truth[np.argsort(-cosines[row, others])]
                recalls.append([ranked[:k].any() for k in KS])
                who.append(patients[row])
        assert asked.patients.tolist() == who
        assert asked.precision == pytest.approx(np.array(expected), abs=1e-6)
        assert asked.found.tolist() == recalls
    assert len(found[0].patients) > 10
    assert not len(found[2].patients), "a patient does not find itself"


def test_chance_is_the_mean_over_all_rankings() -> None:
    labels = np.zeros((25, 1))
    labels[[3, 8, 9, 20]] = 1
    unit = unit_features(np.random.default_rng(1).normal(size=(25, 6)), np.arange(25))
    (asked,) = ask(unit, np.arange(25), labels)
    precisions, recalls = [], []
    for places in combinations(range(24), 3):  # of the three that are to be found
        precisions.append(np.mean([(n + 1) / (place + 1) for n, place in enumerate(places)]))
        recalls.append([places[0] < k for k in KS])
    mean = np.r_[np.mean(precisions), np.mean(recalls, axis=0)]
    assert asked.by_chance == pytest.approx(np.tile(mean, (4, 1)))


def test_where_there_are_few_volumes_recall_is_certain() -> None:
    labels = np.array([[1.0], [1.0], [0.0]])
    (asked,) = ask(unit_features(np.eye(3), np.arange(3)), np.arange(3), labels)
    assert asked.by_chance[:, 1:].tolist() == [[0.5, 1.0, 1.0]] * 2


def test_intervals_cover_the_mean_and_count_a_patient_once(heads: tuple) -> None:
    x, patients, labels = heads
    asked = ask(unit_features(x, np.arange(VOLUMES)), patients, labels)[0]
    precision, *recalls = drawn(asked, 2000)
    assert precision.value == pytest.approx(asked.precision.mean())
    assert len(recalls) == len(KS)
    interval = precision.interval(0.95)
    # The delta method for a ratio of sums over patients.
    numbered = np.unique(asked.patients, return_inverse=True)[1]
    residual = np.bincount(numbered, asked.precision - precision.value)
    error = np.sqrt((residual**2).sum()) / len(asked.precision)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * error, rel=0.15)
