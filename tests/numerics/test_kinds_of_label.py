"""Kinds of label against other programs: coefficients, predictions, figures."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import linregress, spearmanr
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import (
    balanced_accuracy_score,
    brier_score_loss,
    cohen_kappa_score,
    log_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

from fmct_hpc.probe.kinds.base import Kind
from fmct_hpc.probe.kinds.multiclass import Multiclass
from fmct_hpc.probe.kinds.ordinal import Ordinal
from fmct_hpc.probe.kinds.regression import Regression
from fmct_hpc.probe.kinds.survival import Survival, event_free, horizons
from fmct_hpc.probe.methods.logistic import LogisticConfig
from fmct_hpc.probe.penalised import penalised
from fmct_hpc.probe.problem import Problem
from fmct_hpc.probe.statistics.bootstrap import resample_counts
from fmct_hpc.probe.statistics.predictions import ScoredPredictions, resampled
from fmct_hpc.probe.statistics.survival_brier import STEPS

N, D = 240, 6
RNG = np.random.default_rng(3)
X = RNG.normal(size=(N, D)) @ np.diag([5, 2, 1, 1, 0.3, 0.1])
TRUE = X @ np.array([0.2, -0.4, 0.6, 0, 0, 0.5])
NOISE = RNG.logistic(size=N)
GRADE = np.digitize(TRUE + NOISE, [-2, 0, 1.5])
CLASS = np.argmax(np.stack([TRUE, X[:, 1], X[:, 2]], axis=1) + RNG.gumbel(size=(N, 3)), axis=1)
VALUE = 40 + 12 * TRUE + RNG.normal(0, 5, N)
TIMES = np.ceil(20 * RNG.exponential(np.exp(-TRUE)))  # whole days: many ties
LEFT = np.ceil(RNG.exponential(40, N))
EVENTS = TIMES <= LEFT
TIME = np.minimum(TIMES, LEFT)
SURVIVED = np.stack([TIME, EVENTS], axis=1)
PATIENTS = RNG.integers(0, 90, N)
PATIENTS = np.unique(PATIENTS, return_inverse=True)[1]
FOLDS = PATIENTS % 2
STRENGTHS = (0.03, 3.0)


def path(kind: Kind, targets: np.ndarray, strengths: tuple[float, ...] = STRENGTHS) -> tuple[Kind, Any]:
    fitted = kind.on(targets)
    return fitted, fitted.path(X, targets, strengths)


def test_multinomial_coefficients_equal_scikit_learns() -> None:
    kind, actual = path(Multiclass((0, 1, 2)), CLASS)
    for number, strength in enumerate(STRENGTHS):
        model = LogisticRegression(C=strength, tol=1e-10, max_iter=5000).fit(X, CLASS)
        np.testing.assert_allclose(actual.weights[number].T, model.coef_, atol=2e-5)
        raw = X @ actual.weights[number] + actual.biases[number]
        np.testing.assert_allclose(kind.predictions(raw), model.predict_proba(X), atol=1e-5)


def test_ridge_coefficients_equal_scikit_learns() -> None:
    kind, actual = path(Regression(), VALUE)
    for number, strength in enumerate(STRENGTHS):
        model = Ridge(alpha=1 / strength).fit(X, VALUE)
        weight, bias = kind.absorbed(actual.weights[number], actual.biases[number])
        np.testing.assert_allclose(weight[:, 0], model.coef_, rtol=1e-9)
        np.testing.assert_allclose(bias[0], model.intercept_, rtol=1e-9)
        np.testing.assert_allclose(Regression().predictions(X @ weight + bias)[:, 0], model.predict(X))


def test_unpenalised_proportional_odds_equal_statsmodels() -> None:
    from oracles import OrderedModel

    model = OrderedModel(GRADE, X, distr="logit").fit(method="bfgs", disp=False, gtol=1e-9, maxiter=1000)
    kind, actual = path(Ordinal((0, 1, 2, 3)), GRADE, (1e9,))
    np.testing.assert_allclose(actual.weights[0][:, 0], model.params[:D], atol=1e-4)
    raw = X @ actual.weights[0] + actual.biases[0]
    np.testing.assert_allclose(kind.predictions(raw), model.predict(X), atol=1e-5)


def test_cox_coefficients_equal_lifelines() -> None:
    from oracles import CoxPHFitter, DataFrame

    frame = DataFrame(X).assign(time=TIME, event=EVENTS)
    for strength, penalizer in ((1e9, 0.0), (3.0, 1 / (3.0 * N))):  # lifelines divides the likelihood by N
        fitter = CoxPHFitter(penalizer=penalizer, baseline_estimation_method="breslow")
        # It standardises the columns, and penalises their coefficients.
        fitter.fit(frame, "time", "event", fit_options={"precision": 1e-12})
        scale = X.std(axis=0, ddof=1)
        actual = Survival().path(X / scale, SURVIVED, (strength,))
        np.testing.assert_allclose(actual.weights[0][:, 0] / scale, fitter.params_, rtol=2e-4, atol=2e-5)


def judged(
    predictions: np.ndarray, targets: np.ndarray, folds: np.ndarray | None = None
) -> ScoredPredictions:
    return ScoredPredictions(predictions, targets, PATIENTS, np.zeros(N, int) if folds is None else folds)


def repeated(counts: np.ndarray) -> np.ndarray:
    """Rows of a resample, each as often as its patient is drawn."""
    return np.repeat(np.arange(N), counts[PATIENTS])


def calibration_error(predicted: np.ndarray, truth: np.ndarray, rows: np.ndarray) -> float:
    """Over rows of a resample, in the ten bins of about equal counts of all volumes."""
    edges = np.sort(predicted)[[len(predicted) * k // 10 for k in range(1, 10)]]
    own = np.digitize(predicted, edges)
    parts = [rows[own[rows] == k] for k in range(10)]
    return sum(abs((predicted[part] - truth[part]).sum()) for part in parts) / len(rows)


COUNTS = next(resample_counts(int(PATIENTS.max()) + 1, 3, seed=0))


def test_figures_of_classes_equal_scikit_learns_on_resamples() -> None:
    kind = Multiclass((0, 1, 2))
    probabilities = RNG.dirichlet((1, 1, 1), N)
    actual = kind.measure(judged(probabilities, CLASS), None)(COUNTS)
    for row, counts in zip(actual, COUNTS, strict=True):
        rows = repeated(counts)
        truth, own = CLASS[rows], probabilities[rows]
        area = roc_auc_score(truth, own, multi_class="ovr", average="macro")
        balanced = balanced_accuracy_score(truth, own.argmax(axis=1))
        brier = brier_score_loss(truth, own, scale_by_half=False)
        sure = calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == CLASS, rows)
        each = np.mean([calibration_error(probabilities[:, k], k == CLASS, rows) for k in range(3)])
        expected = [area, balanced, log_loss(truth, own), brier, sure, each]
        np.testing.assert_allclose(row, expected, rtol=1e-9)


def test_figures_of_grades_and_values_equal_reference_implementations_on_resamples() -> None:
    kind = Ordinal((0, 1, 2, 3))
    probabilities = RNG.dirichlet((1, 1, 1, 1), N)
    grades, median = kind.expected(probabilities), kind.median(probabilities)
    of_grades = kind.measure(judged(probabilities, GRADE), None)(COUNTS)
    value = np.round(VALUE + RNG.normal(0, 9, N))
    of_values = Regression().measure(judged(value[:, None], VALUE), None)(COUNTS)
    for row, other, counts in zip(of_grades, of_values, COUNTS, strict=True):
        r = repeated(counts)
        kappa = cohen_kappa_score(GRADE[r], median[r], weights="quadratic")
        error = mean_absolute_error(GRADE[r], median[r])
        above = [probabilities[:, k + 1 :].sum(axis=1) for k in range(3)]
        score = np.mean([brier_score_loss(GRADE[r] > k, above[k][r]) for k in range(3)])
        apart = np.mean([calibration_error(above[k], k < GRADE, r) for k in range(3)])
        expected = [kappa, error, spearmanr(GRADE[r], grades[r]).statistic, score, apart]
        np.testing.assert_allclose(row, expected, rtol=1e-9)
        expected = [mean_absolute_error(VALUE[r], value[r]), root_mean_squared_error(VALUE[r], value[r])]
        line = linregress(value[r], VALUE[r])
        expected += [r2_score(VALUE[r], value[r]), spearmanr(VALUE[r], value[r]).statistic]
        expected += [line.slope, line.intercept]
        np.testing.assert_allclose(other, expected, rtol=1e-9)


def test_concordance_equals_lifelines_and_areas_their_definition() -> None:
    from oracles import KaplanMeierFitter, concordance_index

    risks = np.round(TRUE + RNG.normal(0, 1, N), 1)  # with ties
    own = replace(judged(risks[:, None], SURVIVED), validation=[(risks[:50, None], SURVIVED[:50])])
    actual = Survival().measure(own, SURVIVED)(COUNTS)
    # At equal times, events come first; the probability is that just before a time.
    censoring = KaplanMeierFitter().fit(TIME - 0.25 * EVENTS, ~EVENTS)
    before = censoring.survival_function_at_times(TIME - 0.5).to_numpy()
    for row, counts in zip(actual[:, :4], COUNTS, strict=True):
        r = repeated(counts)
        np.testing.assert_allclose(row[0], concordance_index(TIME[r], -risks[r], EVENTS[r]), rtol=1e-12)
        for figure, at in zip(row[1:], horizons(SURVIVED), strict=True):
            cases, controls = r[(TIME[r] <= at) & EVENTS[r]], r[TIME[r] > at]
            right = (risks[cases, None] > risks[controls]) + (risks[cases, None] == risks[controls]) / 2
            weights = 1 / before[cases]
            expected = (weights @ right).sum() / (weights.sum() * len(controls))
            np.testing.assert_allclose(figure, expected, rtol=1e-9)


def test_brier_scores_equal_a_plain_loop_over_lifelines_curves() -> None:
    from oracles import CoxPHFitter, DataFrame, KaplanMeierFitter

    chosen, tested = np.arange(80), np.arange(N)
    frame = DataFrame(X[chosen]).assign(time=TIME[chosen], event=EVENTS[chosen])
    cox = CoxPHFitter(baseline_estimation_method="breslow").fit(frame, "time", "event")
    risks = cox.predict_log_partial_hazard(DataFrame(X)).to_numpy()
    own = replace(judged(risks[:, None], SURVIVED), validation=[(risks[chosen, None], SURVIVED[chosen])])
    actual = Survival().measure(own, SURVIVED)(COUNTS)[:, 4:]
    at = np.linspace(0, horizons(SURVIVED)[-1], STEPS + 1)
    seen = np.append(0, np.unique(TIME[chosen]))  # lifelines draws lines between and before
    steps = seen[np.searchsorted(seen, at, side="right") - 1]
    curves = cox.predict_survival_function(DataFrame(X), times=np.unique(steps))
    survival = np.where(steps > 0, curves.loc[steps].to_numpy().T, 1)
    plain = KaplanMeierFitter().fit(TIME, EVENTS).survival_function_at_times(at).to_numpy()
    censoring = KaplanMeierFitter().fit(TIME - 0.25 * EVENTS, ~EVENTS)
    before = censoring.survival_function_at_times(TIME - 0.5).to_numpy()
    beyond = censoring.survival_function_at_times(at).to_numpy()
    scores = {}
    for name, chances in (("own", survival), ("all", np.tile(plain, (N, 1)))):
        wrong = np.zeros((N, len(at)))
        for i in tested:
            for k, t in enumerate(at):
                if TIME[i] <= t and EVENTS[i]:
                    wrong[i, k] = chances[i, k] ** 2 / before[i]
                elif TIME[i] > t:
                    wrong[i, k] = (1 - chances[i, k]) ** 2 / beyond[k]
        scores[name] = [trapezoid(wrong[repeated(counts)].mean(axis=0), at) / at[-1] for counts in COUNTS]
    mine, reference = np.array(scores["own"]), np.array(scores["all"])
    np.testing.assert_allclose(actual, np.stack([mine, 1 - mine / reference], axis=1), rtol=1e-6)
    assert (actual[:, 1] > 0.2).all()


def bins_of(predicted: np.ndarray) -> list[np.ndarray]:
    """The volumes in each of the ten bins of about equal counts."""
    edges = np.sort(predicted)[[len(predicted) * k // 10 for k in range(1, 10)]]
    return [np.flatnonzero(np.digitize(predicted, edges) == k) for k in range(10)]


def test_reliability_curves_equal_bin_means_and_lifelines_shares_on_resamples() -> None:
    from oracles import KaplanMeierFitter

    classes, grades = RNG.dirichlet((1, 1, 1), N), RNG.dirichlet((1, 1, 1, 1), N)
    values = VALUE + RNG.normal(0, 1, N)
    expected = [(classes[:, k], (k == CLASS).astype(float)) for k in range(3)]
    expected += [(grades[:, k + 1 :].sum(axis=1), (k < GRADE).astype(float)) for k in range(3)]
    expected.append((values, VALUE))
    actual = Multiclass((0, 1, 5)).curves(judged(classes, CLASS), CLASS)
    actual += Ordinal((0, 1, 2, 3)).curves(judged(grades, GRADE), GRADE)
    actual += Regression().curves(judged(values[:, None], VALUE), VALUE)
    assert [curve.name for curve in actual[:3]] == ["class 0", "class 1", "class 5"]
    for curve, (predicted, truth) in zip(actual, expected, strict=True):
        bins = bins_of(predicted)
        assert curve.volumes.tolist() == [len(own) for own in bins]
        np.testing.assert_allclose(curve.predicted, [predicted[own].mean() for own in bins])
        for row, counts in zip(curve.observed(COUNTS), COUNTS, strict=True):
            drawn = [np.repeat(own, counts[PATIENTS][own]) for own in bins]
            np.testing.assert_allclose(row, [truth[own].mean() for own in drawn])
    risks = TRUE + RNG.normal(0, 1, N)
    own = replace(judged(risks[:, None], SURVIVED), validation=[(risks[:50, None], SURVIVED[:50])])
    (curve,) = Survival().curves(own, SURVIVED)
    at = horizons(SURVIVED)[-1]
    chances = 1 - event_free(own, np.array([at]))[:, 0]
    assert curve.at == at
    for row, counts in zip(curve.observed(COUNTS), COUNTS, strict=True):
        for share, members in zip(row, bins_of(chances), strict=True):
            rows = np.repeat(members, counts[PATIENTS][members])
            fitted = KaplanMeierFitter().fit(TIME[rows], EVENTS[rows])
            np.testing.assert_allclose(share, 1 - fitted.survival_function_at_times(at).item(), rtol=1e-9)


def test_the_centred_interval_of_a_biased_error_contains_the_value() -> None:
    kind, rng = Multiclass((0, 1, 2)), np.random.default_rng(8)
    probabilities = rng.dirichlet((1, 1, 1), N)
    truth = (rng.random(N)[:, None] > probabilities.cumsum(axis=1)).sum(axis=1)  # calibrated
    (drawn,) = resampled(
        [kind.measure(judged(probabilities, truth), None)], int(PATIENTS.max()) + 1, 200, seed=0
    )
    error = drawn[kind.figures.index("ece_classwise")]
    assert error.interval(0.95).low > error.value
    centred = error.interval(0.95, centred=True)
    assert 0 <= centred.low < error.value < centred.high


def test_ranks_are_compared_within_folds_only() -> None:
    risks = TRUE + 100 * FOLDS  # other models, without a common scale
    models = judged(risks[:, None], SURVIVED, FOLDS), judged(TRUE[:, None], SURVIVED, FOLDS)
    first, second = (
        replace(
            own, validation=[(own.predictions[fold == FOLDS], SURVIVED[fold == FOLDS]) for fold in (0, 1)]
        )
        for own in models
    )
    actual, plain = Survival().measure(first, SURVIVED), Survival().measure(second, SURVIVED)
    np.testing.assert_allclose(actual(COUNTS), plain(COUNTS), rtol=1e-9)


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        (Multiclass((2, 3, 5)), CLASS),
        (Ordinal((0, 1, 2, 3)), GRADE),
        (Regression(), VALUE),
        (Survival(), SURVIVED),
    ],
)
def test_unseen_labels_change_nothing_and_heads_reproduce_the_scores(kind: Kind, targets: np.ndarray) -> None:
    rows = np.arange(N)
    train, validation, scored = rows[:120], rows[120:160], rows[160:]
    problem = Problem(targets, train, validation, scored, train, 0, kind)
    (actual,) = penalised(X, [problem], LogisticConfig())
    blind = targets.copy()
    blind[scored] = targets[0]
    (again,) = penalised(X, [Problem(blind, train, validation, scored, train, 0, kind)], LogisticConfig())
    np.testing.assert_array_equal(actual.scores, again.scores)
    np.testing.assert_allclose(actual.head.predicted(X[scored], kind), actual.scores, atol=1e-5)
    # A table of predictions is read as it was predicted.
    values, events = kind.values(targets)
    np.testing.assert_array_equal(
        kind.from_values(values, np.zeros(N, bool) if events is None else events), targets
    )


def test_a_loss_is_the_negative_log_of_its_predictions() -> None:
    raw = torch.from_numpy(RNG.normal(size=(N, 3))).sort(dim=1, descending=True).values
    kind = Ordinal((0, 1, 2, 3))
    expected = -np.log(kind.predictions(raw.numpy())[np.arange(N), GRADE]).sum()
    assert float(kind.loss(raw, GRADE)) == pytest.approx(expected, rel=1e-9)
