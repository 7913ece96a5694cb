"""The probes' statistics against scikit-learn, a brute-force bootstrap, and published DeLong values."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, balanced_accuracy_score, brier_score_loss, roc_auc_score

from fmct_hpc.probe.statistics.area import Ranking, auc
from fmct_hpc.probe.statistics.bootstrap import bootstrap, resample_counts
from fmct_hpc.probe.statistics.calibration import brier, reliability
from fmct_hpc.probe.statistics.operating_point import at_sensitivity, at_specificity, most_balanced, rates
from fmct_hpc.probe.statistics.paired import areas_with_covariance, compare, holm
from fmct_hpc.probe.statistics.scored import Scored


def cohort(seed: int = 1, volumes: int = 150, folds: int = 1) -> Scored:
    """Patients with one or several volumes; rounding makes ties."""
    generator = np.random.default_rng(seed)
    patients = np.unique(generator.integers(0, 60, volumes), return_inverse=True)[1]
    labels = generator.random(volumes) < 0.3
    scores = np.round(1 / (1 + np.exp(1 - labels - generator.normal(0, 1.2, volumes))), 1)
    return Scored(scores, labels, patients, patients % folds)


def noisier(scored: Scored, deviation: float) -> Scored:
    noise = np.random.default_rng(5).normal(0, deviation, len(scored.scores))
    return Scored(scored.scores + noise, scored.labels, scored.patients, scored.folds)


def test_areas_equal_scikit_learn_for_every_resample() -> None:
    scored = cohort()
    [counts] = resample_counts(scored.patients.max() + 1, 20, seed=3)
    roc, precision = Ranking(scored).areas(counts)
    for row, drawn in enumerate(counts):
        weights = drawn[scored.patients].astype(float)
        for ours, score in ((roc, roc_auc_score), (precision, average_precision_score)):
            assert ours[row] == pytest.approx(
                score(scored.labels, scored.scores, sample_weight=weights), abs=1e-12
            )


def test_only_pairs_inside_a_fold_count() -> None:
    scored = cohort(folds=4)
    right = pairs = 0.0
    for i in np.flatnonzero(scored.labels):
        for j in np.flatnonzero(~scored.labels & (scored.folds == scored.folds[i])):
            right += np.heaviside(scored.scores[i] - scored.scores[j], 0.5)
            pairs += 1
    assert auc(scored) == pytest.approx(right / pairs, abs=1e-12)
    assert areas_with_covariance([scored])[0][0] == pytest.approx(right / pairs, abs=1e-12)


def test_resamples_equal_a_brute_force_bootstrap() -> None:
    first, resamples = cohort(), 40
    second = noisier(first, 0.3)
    patients = first.patients.max() + 1
    roc, precision = bootstrap([Ranking(first), Ranking(second)], patients, resamples, seed=7)
    drawn = np.concatenate(list(resample_counts(patients, resamples, seed=7)))
    assert (drawn.sum(axis=1) == patients).all()
    for row, counts in enumerate(drawn):
        volumes = np.concatenate(
            [np.repeat(np.flatnonzero(first.patients == p), counts[p]) for p in range(patients)]
        )
        for scored, own_roc, own_precision in zip((first, second), roc, precision, strict=True):
            labels, scores = scored.labels[volumes], scored.scores[volumes]
            assert own_roc.resampled[row] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
            expected = average_precision_score(labels, scores)
            assert own_precision.resampled[row] == pytest.approx(expected, abs=1e-12)
    interval = (roc[0] - roc[1]).interval(0.95)
    low, high = np.quantile(roc[0].resampled - roc[1].resampled, [0.025, 0.975])
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)


def test_draws_are_uniform_over_patients_and_a_function_of_the_seed() -> None:
    counts = np.concatenate(list(resample_counts(50, 3000, seed=1))).astype(float)
    assert counts.mean(axis=0) == pytest.approx(1, abs=0.1)
    assert counts.var() == pytest.approx(1 - 1 / 50, abs=0.03)  # of a multinomial draw
    assert np.array_equal(counts, np.concatenate(list(resample_counts(50, 3000, seed=1))))
    assert not np.array_equal(counts, np.concatenate(list(resample_counts(50, 3000, seed=2))))


OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0
1.6 5.6 5 1  3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1
4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1
3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1
3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1
3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1
3.6 6.6 5 1
"""
"""Albumin, total protein, Krebs-Goplerud score and outcome of the patients of DeLong et al. 1988."""


def test_delong_gives_the_published_values_for_its_patients() -> None:
    """Areas, errors and contrasts as SAS/STAT documents them (PROC LOGISTIC, comparing ROC curves)."""
    albumin, protein, score, outcome = np.array(OVARIAN.split(), float).reshape(-1, 4).T
    tests = [
        Scored(values, outcome == 1, np.arange(len(outcome)), np.zeros(len(outcome), int))
        for values in (albumin, protein, 10 - score)
    ]
    areas, covariance = areas_with_covariance(tests)
    assert areas == pytest.approx([0.7366, 0.6478, 0.7258], abs=5e-5)
    assert np.sqrt(np.diag(covariance)) == pytest.approx([0.0927, 0.1000, 0.1028], abs=5e-5)
    for test, expected in (
        (tests[0], (0.0108, -0.1761, 0.1976, 0.9102)),
        (tests[1], (-0.0780, -0.2830, 0.1271, 0.4561)),
    ):
        result = compare(test, tests[2], 0.95)
        assert (result.difference, result.low, result.high, result.p) == pytest.approx(expected, abs=5e-5)


def test_delong_equals_the_structural_components_of_1988() -> None:
    first = cohort()
    first = Scored(first.scores, first.labels, np.arange(len(first.labels)), first.folds)
    tests = [first, noisier(first, 0.2)]
    areas, covariance = areas_with_covariance(tests)
    pairs = [
        np.heaviside(t.scores[t.labels][:, None] - t.scores[~t.labels][None], 0.5) for t in tests
    ]  # equation 1
    expected = np.cov([p.mean(axis=1) for p in pairs]) / len(pairs[0])
    expected += np.cov([p.mean(axis=0) for p in pairs]) / pairs[0].shape[1]
    assert areas == pytest.approx([p.mean() for p in pairs], abs=1e-12)
    assert covariance == pytest.approx(expected, abs=1e-12)


def test_delong_counts_a_patient_with_several_scans_once() -> None:
    once = cohort(volumes=60)
    once = Scored(once.scores, once.labels, np.arange(60), once.folds)
    twice = Scored(
        np.tile(once.scores, 2), np.tile(once.labels, 2), np.tile(once.patients, 2), np.tile(once.folds, 2)
    )
    single, double = (areas_with_covariance([s, noisier(s, 0)])[1] for s in (once, twice))
    assert double == pytest.approx(single, rel=1e-9)


def test_delong_agrees_with_the_bootstrap_over_patients_and_folds() -> None:
    first = cohort(volumes=400, folds=3)
    second = noisier(first, 0.3)
    _, covariance = areas_with_covariance([first, second])
    patients = first.patients.max() + 1
    draws, _ = bootstrap([Ranking(first), Ranking(second)], patients, 2000, seed=0)
    expected = np.cov([d.resampled for d in draws])
    assert np.sqrt(np.diag(covariance)) == pytest.approx(np.sqrt(np.diag(expected)), rel=0.15)
    assert covariance[0, 1] == pytest.approx(expected[0, 1], rel=0.25)


def test_delong_rejects_a_true_null_hypothesis_at_the_nominal_rate() -> None:
    generator = np.random.default_rng(0)
    labels, patients, folds = np.arange(80) < 30, np.arange(80), np.zeros(80, int)
    collected = []
    for _ in range(600):
        common = labels + generator.normal(0, 1, 80)
        one, other = (Scored(common + generator.normal(0, 1, 80), labels, patients, folds) for _ in range(2))
        collected.append(compare(one, other, 0.95).p)
    assert np.mean(np.array(collected) < 0.05) == pytest.approx(0.05, abs=0.03)


def test_a_classifier_does_not_differ_from_itself() -> None:
    result = compare(cohort(), cohort(), 0.95)
    assert (result.difference, result.p) == (0, 1)


def test_holm_equals_its_definition() -> None:
    # p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm") of R gives 0.05, 0.08, 0.09, 0.09, 0.09.
    assert holm([0.03, 0.01, 0.05, 0.02, 0.04]) == pytest.approx([0.09, 0.05, 0.09, 0.08, 0.09])
    assert np.array_equal(holm([np.nan, 0.4, 0.9]), [np.nan, 0.8, 0.9], equal_nan=True)
    generator = np.random.default_rng(2)
    p = norm.sf(generator.normal(1, 1, 30))
    for alpha in (0.01, 0.05, 0.2):  # the step-down procedure itself
        rejected = np.zeros(30, bool)
        for step, test in enumerate(np.argsort(p)):
            if p[test] > alpha / (30 - step):
                break
            rejected[test] = True
        assert np.array_equal(holm(p) <= alpha, rejected)


def test_calibration_equals_scikit_learn() -> None:
    generator = np.random.default_rng(4)
    scores = generator.random(1000)
    labels = generator.random(1000) < scores**2
    scored = Scored(scores, labels, np.arange(1000), np.zeros(1000, int))
    observed, predicted = calibration_curve(labels, scores, n_bins=10, strategy="quantile")
    curve = reliability(scored)
    assert curve.predicted == pytest.approx(predicted, abs=1e-12)
    assert curve.observed == pytest.approx(observed, abs=1e-12)
    assert curve.error == pytest.approx(np.abs(observed - predicted).mean(), abs=1e-12)
    assert brier(scored) == pytest.approx(brier_score_loss(labels, scores), abs=1e-12)


def test_equal_probabilities_share_a_bin() -> None:
    labels = np.arange(100) < 20
    zeros = np.zeros(100, int)
    curve = reliability(Scored(np.full(100, 0.2), labels, np.arange(100), zeros))
    assert list(curve.volumes) == [100]
    assert curve.error == pytest.approx(0, abs=1e-12)
    curve = reliability(Scored(np.where(labels, 1.0, 0.0), labels, np.arange(100), zeros))
    assert (list(curve.volumes), curve.error) == ([80, 20], 0)


def test_thresholds_are_the_best_of_all_candidates() -> None:
    scored = cohort()
    scores, labels = scored.scores, scored.labels
    every = [rates(scores, labels, t) for t in (-np.inf, *np.unique(scores), np.inf)]
    chosen = rates(scores, labels, most_balanced(scores, labels))
    assert chosen.balanced_accuracy == max(r.balanced_accuracy for r in every)
    called = scores >= most_balanced(scores, labels)
    assert chosen.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, called), abs=1e-12)
    for least in (0, 0.5, 0.8, 0.95, 1):
        actual = rates(scores, labels, at_specificity(scores, labels, least))
        assert actual.sensitivity == max(r.sensitivity for r in every if r.specificity >= least)
        actual = rates(scores, labels, at_sensitivity(scores, labels, least))
        assert actual.specificity == max(r.specificity for r in every if r.sensitivity >= least)


def test_figures_that_need_both_classes_are_nan_with_one() -> None:
    scored = Scored(np.array([0.1, 0.4]), np.array([True, True]), np.arange(2), np.zeros(2, int))
    [roc], [precision] = bootstrap([Ranking(scored)], 2, 10, seed=0)
    assert np.isnan([auc(scored), roc.interval(0.95).low, precision.value]).all()
    assert np.isnan(areas_with_covariance([scored])[1]).all()
    assert np.isnan([most_balanced(scored.scores, scored.labels)])
    assert np.isnan([at_specificity(scored.scores, scored.labels, 0.9)])
