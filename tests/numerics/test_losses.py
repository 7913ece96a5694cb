"""The losses against NumPy implementations written from the papers' formulas."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fmct_hpc.objective.dino import DinoTargets, dino_loss, health
from fmct_hpc.objective.mae import mae_loss, normalise_patches

GENERATOR = np.random.default_rng(0)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


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
    ours = dino_loss(torch.tensor(student), torch.tensor(teacher, dtype=torch.float32), 0.1)
    assert ours.item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_targets_are_centred_sharpened_and_the_centre_is_a_running_mean() -> None:
    targets = DinoTargets(8, momentum=0.9)
    centre = np.zeros(8)
    for _ in range(3):
        logits = GENERATOR.normal(size=(2, 3, 8)) + np.arange(8)
        ours = targets(torch.tensor(logits, dtype=torch.float32), 0.04)
        np.testing.assert_allclose(ours, softmax((logits - centre) / 0.04), atol=1e-4)
        targets.update(torch.tensor(logits, dtype=torch.float32))
        centre = 0.9 * centre + 0.1 * logits.reshape(-1, 8).mean(axis=0)
        np.testing.assert_allclose(targets.center, centre, atol=1e-6)


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


CENTRE_RANK = """
import os, sys
import torch, torch.distributed as dist
from fmct_hpc.objective.dino import DinoTargets
dist.init_process_group("gloo")
logits = torch.load(sys.argv[1])
targets = DinoTargets(logits.shape[-1], 0.9)
targets.update(logits.chunk(dist.get_world_size(), dim=1)[dist.get_rank()])
torch.save(targets.center, f"{sys.argv[1]}.{dist.get_rank()}")
dist.destroy_process_group()
"""


def test_two_ranks_move_the_centre_as_one_does(tmp_path: Path) -> None:
    logits = torch.tensor(GENERATOR.normal(size=(2, 6, 8)), dtype=torch.float32)
    torch.save(logits, tmp_path / "logits")
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "PYTHONPATH": os.getcwd()}
    shared["MASTER_PORT"] = str(29500 + os.getpid() % 1000)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", CENTRE_RANK, str(tmp_path / "logits")], env={**shared, "RANK": str(rank)}
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    alone = DinoTargets(8, 0.9)
    alone.update(logits)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"logits.{rank}"), alone.center, atol=1e-7, rtol=0)
