"""The losses against NumPy implementations written from the papers' formulas; statistics over ranks."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from rank_counts import on_rank_counts

from fmct_hpc.objective.dino import dino_loss, health
from fmct_hpc.objective.gram import gram_loss
from fmct_hpc.objective.ibot import ibot_loss
from fmct_hpc.objective.koleo import koleo_loss
from fmct_hpc.objective.lejepa import distance_of_views, sigreg, sigreg_of_point
from fmct_hpc.objective.mae import mae_loss, normalise_patches
from fmct_hpc.objective.projector import BatchNorm
from fmct_hpc.objective.spread import feature_deviation
from fmct_hpc.objective.targets import RunningCentre, SinkhornKnopp

GENERATOR = np.random.default_rng(0)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float32)


def test_dino_is_the_mean_cross_entropy_over_pairs_of_different_views() -> None:
    student = GENERATOR.normal(size=(5, 4, 16)) * 3
    teacher = softmax(GENERATOR.normal(size=(2, 4, 16)))
    terms = [
        -(teacher[g, b] * np.log(softmax(student[v, b] / 0.1))).sum()
        for g in range(2)
        for v in range(5)
        for b in range(4)
        if v != g
    ]
    ours = dino_loss(torch.tensor(student), tensor(teacher), 0.1)
    assert ours.item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_targets_are_centred_sharpened_and_the_centre_is_a_running_mean() -> None:
    targets = RunningCentre(8, momentum=0.9)
    centre = np.zeros(8)
    for _ in range(3):
        logits = GENERATOR.normal(size=(2, 3, 8)) + np.arange(8)
        parts = [tensor(logits[:, :1]), tensor(logits[:, 1:])]
        ours = torch.cat(targets.probabilities(parts, 0.04), dim=1)
        np.testing.assert_allclose(ours, softmax((logits - centre) / 0.04), atol=1e-4)
        targets.update()
        centre = 0.9 * centre + 0.1 * logits.reshape(-1, 8).mean(axis=0)
        np.testing.assert_allclose(targets.center, centre, atol=1e-6)


def test_a_step_without_masked_patches_leaves_the_centre_unchanged() -> None:
    targets = RunningCentre(8, momentum=0.9)
    targets.center.fill_(2.0)
    assert targets.probabilities([torch.empty(0, 8)], 0.04)[0].shape == (0, 8)
    targets.update()
    assert torch.equal(targets.center, torch.full((8,), 2.0))
    assert SinkhornKnopp(3).probabilities([torch.empty(0, 8)], 0.04)[0].shape == (0, 8)


def sinkhorn(logits: np.ndarray, temperature: float, iterations: int) -> np.ndarray:
    """Caron et al. 2020, section 3.1 with its notation: Q is K × B, and Q* = Diag(u) exp(CᵀZ / ε) Diag(v)."""
    k, b = logits.shape[1], logits.shape[0]
    q = np.exp(logits.T / temperature)
    q /= q.sum()
    for _ in range(iterations):
        q *= (1 / k) / q.sum(axis=1, keepdims=True)
        q *= (1 / b) / q.sum(axis=0, keepdims=True)
    return q.T * b


def test_sinkhorn_knopp_shares_prototypes_equally() -> None:
    logits = GENERATOR.uniform(-1, 1, size=(2, 32, 8))
    parts = [tensor(logits[:, :12]), tensor(logits[:, 12:])]
    ours = torch.cat(SinkhornKnopp(3).probabilities(parts, 0.07), dim=1)
    # The order of rows does not affect a row's target.
    np.testing.assert_allclose(
        ours.flatten(0, 1), sinkhorn(logits.reshape(64, 8), 0.07, 3), rtol=1e-4, atol=1e-6
    )
    settled = SinkhornKnopp(300).probabilities(parts, 0.07)
    shares = torch.cat(settled, dim=1).flatten(0, 1).mean(dim=0)
    np.testing.assert_allclose(shares, np.full(8, 1 / 8), rtol=1e-3)


def test_ibot_is_the_mean_over_masked_patches_then_over_views() -> None:
    where = GENERATOR.random((2, 3, 10)) < 0.4
    where[1, 2] = False
    student, teacher = GENERATOR.normal(size=(2, 2, 3, 10, 6))
    teacher = softmax(teacher)
    per_view = []
    for g in range(2):
        for b in range(3):
            terms = [
                -(teacher[g, b, n] * np.log(softmax(student[g, b, n] / 0.1))).sum()
                for n in np.flatnonzero(where[g, b])
            ]
            per_view.append(np.mean(terms) if terms else 0.0)
    counts = where.sum(axis=-1, keepdims=True) * np.ones_like(where)
    weights = 1 / counts[where] / 6
    ours = ibot_loss(tensor(student[where]), tensor(teacher[where]), tensor(weights), 0.1)
    assert ours.item() == pytest.approx(np.mean(per_view), rel=1e-5)


def test_koleo_is_the_mean_log_distance_to_the_nearest_other_volume() -> None:
    features = GENERATOR.normal(size=(2, 7, 5))
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    expected = 0.0
    for view in unit:
        distances = np.linalg.norm(view[:, None] - view[None], axis=-1) + np.diag(np.full(7, np.inf))
        expected -= np.log(distances.min(axis=1)).mean()
    assert koleo_loss(tensor(features)).item() == pytest.approx(expected, rel=1e-5)


def test_koleo_pushes_equal_features_apart_and_stays_finite() -> None:
    features = torch.ones(1, 3, 4, requires_grad=True)
    koleo_loss(features).backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_gram_is_the_mean_squared_difference_of_cosines_between_patches() -> None:
    student, anchor = GENERATOR.normal(size=(2, 2, 3, 6, 5))
    terms = []
    for mine, theirs in zip(student.reshape(-1, 6, 5), anchor.reshape(-1, 6, 5), strict=True):
        first, second = (
            [[np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for a in tokens] for b in tokens]
            for tokens in (mine, theirs)
        )
        terms.append(np.square(np.subtract(first, second)).mean())
    assert gram_loss(tensor(student), tensor(anchor)).item() == pytest.approx(np.mean(terms), rel=1e-5)
    turned = np.linalg.qr(GENERATOR.normal(size=(5, 5)))[0]  # only similarities count
    assert gram_loss(tensor(3 * anchor @ turned), tensor(anchor)).item() == pytest.approx(0, abs=1e-10)


def epps_pulley(projected: np.ndarray) -> float:
    """Balestriero and LeCun 2025, algorithm 1, of N numbers: complex, and over both sides of 0."""
    t = np.linspace(-5, 5, 17)
    normal = np.exp(-(t**2) / 2)
    empirical = np.exp(1j * projected[:, None] * t).mean(axis=0)
    return len(projected) * np.trapezoid(np.abs(empirical - normal) ** 2 * normal, t)


def test_sigreg_is_epps_and_pulleys_statistic_of_each_view_and_direction() -> None:
    embeddings = GENERATOR.normal(size=(3, 7, 5)) * [0.3, 1, 2, 1, 1] + [0, 1, 0, 0, 0]
    directions = GENERATOR.normal(size=(5, 11))
    directions /= np.linalg.norm(directions, axis=0)
    expected = np.mean([epps_pulley(view @ direction) for view in embeddings for direction in directions.T])
    assert sigreg(tensor(embeddings), tensor(directions)).item() == pytest.approx(expected, rel=1e-5)
    # ∫ (1 - exp(-t²)) exp(-t²/2) dt of a normal, and N ∫ (1 - exp(-t²/2))² exp(-t²/2) dt of a point at 0.
    normal = sigreg(tensor(GENERATOR.normal(size=(800, 100, 5))), tensor(directions))
    assert normal.item() == pytest.approx((2 * np.pi) ** 0.5 * (1 - 3**-0.5), rel=0.1)
    point = sigreg(torch.zeros(1, 100, 5), tensor(directions))
    assert point.item() == pytest.approx(sigreg_of_point(torch.zeros(1, 100, 5)), rel=1e-4)
    assert point.item() == pytest.approx(100 * (2 * np.pi) ** 0.5 * (1 - 2**0.5 + 3**-0.5), rel=1e-3)


def test_lejepas_distance_is_from_every_view_to_the_mean_of_the_global_views() -> None:
    embeddings = GENERATOR.normal(size=(5, 4, 6))
    terms = [
        (embeddings[v, b] - (embeddings[0, b] + embeddings[1, b]) / 2) ** 2
        for v in range(5)
        for b in range(4)
    ]
    assert distance_of_views(tensor(embeddings), 2).item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_batch_norm_is_over_views_and_volumes_even_where_all_are_nearly_equal() -> None:
    rows = 1 + 1e-2 * GENERATOR.normal(size=(3, 4, 6))
    norm = BatchNorm(6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    normal = (rows - rows.mean(axis=(0, 1))) / np.sqrt(rows.var(axis=(0, 1)) + 1e-5)
    expected = norm.weight.detach().numpy() * normal + norm.bias.detach().numpy()
    np.testing.assert_allclose(norm(tensor(rows)).detach(), expected, atol=1e-4)


def test_losses_are_computed_in_float32_under_autocast() -> None:
    logits, features = tensor(GENERATOR.normal(size=(4, 3, 16))), tensor(GENERATOR.normal(size=(2, 9, 16)))
    teacher = torch.softmax(logits[:2] * 3, dim=-1)
    weights = torch.full((3,), 1 / 3)
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            ibot = ibot_loss(logits[0], teacher[0], weights, 0.1)
            gram = gram_loss(logits[None], logits[None].flip(2))
            lejepa = sigreg(features, features[0, :4].T)
            others = dino_loss(logits, teacher, 0.1), koleo_loss(features)
            losses.append(torch.stack([ibot, gram, lejepa, *others]))
    assert torch.equal(*losses)


def test_mae_counts_masked_patches_only_and_normalises_each() -> None:
    target, predicted = GENERATOR.normal(size=(2, 3, 6, 10)) * 5 + 2
    keep = np.array([[0, 4], [1, 2], [3, 5]])
    normal = (target - target.mean(-1, keepdims=True)) / target.std(-1, ddof=1, keepdims=True)
    masked = [(b, n) for b in range(3) for n in range(6) if n not in keep[b]]
    expected = np.mean([((predicted[b, n] - normal[b, n]) ** 2).mean() for b, n in masked])
    ours = mae_loss(torch.tensor(predicted), normalise_patches(torch.tensor(target)), torch.tensor(keep))
    assert ours.item() == pytest.approx(expected, rel=1e-5)


def test_a_patch_of_air_has_a_finite_target() -> None:
    assert torch.equal(normalise_patches(torch.zeros(1, 2, 5)), torch.zeros(1, 2, 5))


def test_health_figures_tell_both_kinds_of_collapse() -> None:
    uniform = torch.full((2, 3, 16), 1 / 16)
    one = torch.zeros(2, 3, 16)
    one[..., 5] = 1
    spread, collapsed = (health(torch.zeros(4, 3, 16), p, 0.1) for p in (uniform, one))
    assert spread["teacher_entropy"].item() == pytest.approx(np.log(16), rel=1e-5)
    assert collapsed["teacher_entropy"].item() == 0
    assert collapsed["prototypes_used"].item() == 1
    assert spread["student_entropy"].item() == pytest.approx(np.log(16), rel=1e-5)
    assert feature_deviation(torch.randn(2, 2000, 8)).item() == pytest.approx(1, rel=0.05)
    assert feature_deviation(torch.ones(2, 20, 8)).item() == pytest.approx(0, abs=1e-6)


def statistics(rank: int, world: int, folder: Path) -> dict[str, torch.Tensor]:
    """Values computed from the global batch, of which this rank has a share."""
    given = torch.load(folder / "given")
    logits, features = (given[name].chunk(world, dim=1)[rank] for name in ("logits", "features"))
    centring = RunningCentre(8, 0.9)
    centring.probabilities([logits], 0.04)
    centring.update()
    targets = torch.cat(SinkhornKnopp(3).probabilities(list(logits.split(1, dim=1)), 0.07), dim=1)
    # The number of masked patches differs between ranks; one of four has none.
    patches = given["patches"].tensor_split({1: [], 2: [3], 4: [3, 3, 9]}[world])[rank]
    masked = SinkhornKnopp(3).probabilities([patches], 0.07)[0]
    weight = given["weight"].requires_grad_()
    loss = koleo_loss(features @ weight)
    loss.backward()
    koleo = torch.cat([loss.detach().reshape(1), weight.grad.flatten()])
    dist.all_reduce(koleo)
    return {
        **{"centre": centring.center, "spread": feature_deviation(features), "koleo": koleo / world},
        **{"sinkhorn": targets, "masked": masked},
    }


def test_statistics_of_a_global_batch_do_not_depend_on_the_ranks(tmp_path: Path) -> None:
    given = {
        "logits": tensor(GENERATOR.uniform(-1, 1, size=(2, 8, 8))),
        "patches": tensor(GENERATOR.uniform(-1, 1, size=(11, 8))),
        "features": tensor(GENERATOR.normal(size=(2, 8, 6))),
        "weight": tensor(GENERATOR.normal(size=(6, 6))),
    }
    torch.save(given, tmp_path / "given")
    worlds = on_rank_counts(statistics, tmp_path)
    [alone] = worlds.pop(1)
    expected = koleo_loss(given["features"] @ given["weight"]).item()
    assert alone["koleo"][0].item() == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(
        alone["masked"], sinkhorn(given["patches"].numpy(), 0.07, 3), rtol=1e-4, atol=1e-6
    )
    for world, ranks in worlds.items():
        joined = {
            "sinkhorn": torch.cat([r["sinkhorn"] for r in ranks], 1),
            "masked": torch.cat([r["masked"] for r in ranks]),
        }
        for name, value in alone.items():
            for ours in [joined[name]] if name in joined else [r[name] for r in ranks]:
                torch.testing.assert_close(ours, value, atol=1e-6, rtol=1e-5, msg=f"{name}, {world} ranks")
