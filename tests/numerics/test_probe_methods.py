"""The probes' methods against scikit-learn and PyTorch's optimizer, one classifier at a time."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from fmct_hpc.probe.attentive import attentive
from fmct_hpc.probe.heads import Scaling
from fmct_hpc.probe.linear import batches_of_steps, linear
from fmct_hpc.probe.logistic import fit_path, logistic
from fmct_hpc.probe.methods.attentive import AttentiveConfig
from fmct_hpc.probe.methods.linear import LinearConfig
from fmct_hpc.probe.methods.logistic import LogisticConfig
from fmct_hpc.probe.methods.neighbours import NeighboursConfig
from fmct_hpc.probe.neighbours import neighbours
from fmct_hpc.probe.problem import Fitted, Problem, log_loss

WIDTH = 40


def features(volumes: int = 400) -> np.ndarray:
    """Correlated channels with variances over four orders of magnitude and means far from 0."""
    generator = np.random.default_rng(0)
    turn = np.linalg.qr(generator.normal(size=(WIDTH, WIDTH)))[0]
    spread = generator.normal(size=(volumes, WIDTH)) * np.logspace(0, -2, WIDTH)
    return (spread @ turn + generator.normal(0, 3, WIDTH)).astype(np.float32)


def problem(x: np.ndarray, seed: int = 0, train: int = 200) -> Problem:
    generator = np.random.default_rng(seed + 1)
    scaled = StandardScaler().fit_transform(x)
    labels = generator.random(len(x)) < expit(scaled @ generator.normal(0, 0.5, WIDTH) - 1)
    everyone = np.arange(len(x))
    part = everyone[: len(x) // 2]
    rows = np.sort(generator.choice(part, train, replace=False))
    validation, scored = everyone[len(part) : len(part) + 80], everyone[len(part) + 80 :]
    return Problem(labels, rows, validation, scored, part, seed)


def in_deviations(x: np.ndarray, case: Problem) -> np.ndarray:
    return StandardScaler().fit(x[case.unlabelled].astype(np.float64)).transform(x.astype(np.float64))


def test_the_regularisation_path_equals_scikit_learn() -> None:
    x = features()
    strengths = [1e-4, 1e-2, 1.0, 100.0]
    cases = [problem(x, seed, train) for seed, train in ((0, 200), (1, 160), (2, 25))]
    scaled = torch.from_numpy(Scaling.over(x, cases[0].unlabelled)(x))
    for case in cases:
        labels = torch.from_numpy(case.labels[case.train, None]).float()
        weights, intercepts = fit_path(scaled[case.train], labels, torch.ones_like(labels), strengths)
        for number, strength in enumerate(strengths):
            model = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000)
            model.fit(in_deviations(x, case)[case.train], case.labels[case.train])
            largest = np.abs(model.coef_).max()
            assert weights[number, :, 0].numpy() == pytest.approx(model.coef_[0], abs=0.01 * largest)
            assert intercepts[number, 0].item() == pytest.approx(model.intercept_[0], abs=0.02)


def test_regularisation_strengths_solved_in_parts_equal_those_solved_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.from_numpy(Scaling.over(features(), np.arange(400))(features()))
    labels = torch.stack([x[:, 0] > 0.5, x[:, 1] > 0], dim=1).float()
    used = (torch.arange(400)[:, None] % torch.tensor([2, 3]) > 0).float()
    strengths = [1e-3, 1e-2, 0.1]
    whole = fit_path(x, labels, used, strengths)
    monkeypatch.setattr("fmct_hpc.probe.logistic.MAX_ELEMENTS", 2 * labels.numel())
    for once, parts in zip(whole, fit_path(x, labels, used, strengths), strict=True):
        torch.testing.assert_close(parts, once, atol=1e-4, rtol=1e-3)


def test_logistic_chooses_on_validation_and_scores_as_scikit_learn() -> None:
    x = features()
    config = LogisticConfig(strengths=(1e-3, 1e-1, 10.0))
    # The third one has few volumes and is solved separately, the others together.
    cases = [problem(x, 0), problem(x, 1, 150), problem(x, 2, 30)]
    for case, fitted in zip(cases, logistic(x, cases, config), strict=True):
        scaled = in_deviations(x, case)
        models = [
            LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(
                scaled[case.train], case.labels[case.train]
            )
            for c in config.strengths
        ]
        losses = [
            sklearn_log_loss(case.labels[case.validation], m.predict_proba(scaled[case.validation]))
            for m in models
        ]
        best = int(np.argmin(losses))
        assert fitted.chosen == {"strength": config.strengths[best]}
        expected = models[best].predict_proba(scaled[case.scored])[:, 1]
        assert fitted.scores == pytest.approx(expected, abs=2e-3)
        truth = case.labels[case.scored]
        assert roc_auc_score(truth, fitted.scores) == pytest.approx(roc_auc_score(truth, expected), abs=1e-3)


def test_labels_of_unseen_volumes_change_nothing() -> None:
    x = features()
    case = problem(x)
    used = np.zeros(len(x), bool)
    used[np.concatenate([case.train, case.validation])] = True
    other = replace(case, labels=np.where(used, case.labels, ~case.labels))
    tokens = x.reshape(len(x), 4, 10)
    methods: tuple[Callable[[Problem], list[Fitted]], ...] = (
        lambda p: logistic(x, [p], LogisticConfig()),
        lambda p: linear(x, [p], LinearConfig(steps=50)),
        lambda p: neighbours(x, [p], NeighboursConfig()),
        lambda p: attentive(tokens, [p], AttentiveConfig(steps=10)),
    )
    for run in methods:
        [first], [second] = run(case), run(other)
        assert np.array_equal(first.scores, second.scores)
        assert np.array_equal(first.validation, second.validation)


def test_linear_equals_an_optimizer_for_each_rate() -> None:
    x = features()
    config = LinearConfig(learning_rates=(0.003, 0.3), steps=60, batch=64)
    first = problem(x, 3)
    cases = [first, replace(problem(x, 4), train=first.train, seed=3)]
    for case, fitted in zip(cases, linear(x, cases, config), strict=True):
        scaled = torch.from_numpy(Scaling.over(x, case.unlabelled)(x))
        y = torch.from_numpy(case.labels).float()
        results = []
        for rate in config.learning_rates:
            model = torch.nn.Linear(WIDTH, 1)
            torch.nn.init.zeros_(model.weight)
            torch.nn.init.zeros_(model.bias)
            optimizer = torch.optim.SGD(model.parameters(), rate * 64 / 256, momentum=0.9)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
            for places in batches_of_steps(len(case.train), 64, config.steps, case.seed):
                rows = case.train[places]
                loss = torch.nn.functional.binary_cross_entropy_with_logits(
                    model(scaled[rows])[:, 0], y[rows]
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            with torch.no_grad():
                results.append(torch.sigmoid(model(scaled)[:, 0]).double().numpy())
        on_validation = np.stack([r[case.validation] for r in results])
        best = int(np.argmin(log_loss(on_validation, case.labels[case.validation])))
        assert fitted.chosen == {"learning_rate": config.learning_rates[best]}
        assert fitted.scores == pytest.approx(results[best][case.scored], abs=1e-4)


def test_a_batch_repeats_no_volume_before_all_were_drawn() -> None:
    batches = batches_of_steps(10, 4, 5, seed=1)
    assert [len(batch) for batch in batches] == [4] * 5
    assert np.array_equal(np.sort(np.concatenate(batches).reshape(2, 10)), [np.arange(10)] * 2)


def test_neighbours_equal_scikit_learn() -> None:
    x = features()
    case = problem(x)
    config = NeighboursConfig(counts=(3, 20, 1000))
    [fitted] = neighbours(x, [case], config)
    scaled = in_deviations(x, case)
    expected = []
    for count in (3, 20, len(case.train)):
        model = KNeighborsClassifier(
            count, metric="cosine", weights=lambda d: np.exp((1 - d) / config.temperature)
        )
        model.fit(scaled[case.train], case.labels[case.train])
        rows = np.concatenate([case.validation, case.scored])
        expected.append(model.predict_proba(scaled[rows])[:, 1])
    on_validation = np.stack(expected)[:, : len(case.validation)]
    best = int(np.argmin(log_loss(on_validation, case.labels[case.validation])))
    assert fitted.chosen == {"neighbours": (3, 20, len(case.train))[best]}
    assert fitted.validation == pytest.approx(on_validation[best], abs=1e-4)
    assert fitted.scores == pytest.approx(expected[best][len(case.validation) :], abs=1e-4)


def test_attention_detects_a_mark_on_one_patch_that_the_mean_dilutes() -> None:
    generator = np.random.default_rng(0)
    volumes, patches, width = 300, 64, 16
    tokens = generator.normal(size=(volumes, patches, width)).astype(np.float32)
    labels = generator.random(volumes) < 0.5
    # A positive has its mark on one patch; a negative has the same sum spread over all of its patches.
    mark = np.eye(width, dtype=np.float32)[0] * 6
    where = generator.integers(0, patches, volumes)
    tokens[np.arange(volumes)[labels], where[labels]] += mark
    tokens[~labels] += mark / patches
    everyone = np.arange(volumes)
    case = Problem(labels, everyone[:160], everyone[160:200], everyone[200:], everyone[:160], seed=0)
    [fitted] = attentive(tokens, [case], AttentiveConfig(queries=2))
    [mean] = logistic(tokens.mean(axis=1), [case], LogisticConfig())
    truth = labels[case.scored]
    assert roc_auc_score(truth, fitted.scores) > 0.9
    assert roc_auc_score(truth, mean.scores) < 0.7


def test_every_method_fits_one_volume_of_each_class() -> None:
    x = features()
    labels = np.arange(len(x)) % 2 == 0
    rows = np.arange(4)
    case = Problem(labels, rows[:2], rows[:0], rows, rows, seed=0)
    tokens = x.reshape(len(x), 4, 10)
    for [fitted] in (
        logistic(x, [case], LogisticConfig()),
        linear(x, [case], LinearConfig(steps=20)),
        neighbours(x, [case], NeighboursConfig()),
        attentive(tokens, [case], AttentiveConfig(steps=5)),
    ):
        assert np.isfinite(fitted.scores).all()
        assert ((fitted.scores >= 0) & (fitted.scores <= 1)).all()
