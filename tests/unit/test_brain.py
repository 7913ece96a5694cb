"""A brain in a skull is detected in heads, and not in phantoms, other body parts or objects."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from preprocess.anatomy.brain import brain_objection, coarse
from preprocess.anatomy.head_voxels import head_objection
from preprocess.demo.anatomy import head_hu
from preprocess.demo.head import Head, draw_anatomy

STEP = 3.0
SPACING = (STEP, STEP, STEP)
Z, Y, X = np.meshgrid(
    np.arange(-75, 108, STEP), np.arange(111, -112, -STEP), np.arange(99, -100, -STEP), indexing="ij"
)
AIR, FAT, WATER, MUSCLE, PLASTIC, BONE = -1000, -100, 0, 50, 120, 900


def objection(voxels: np.ndarray, spacing: tuple[float, float, float]) -> str | None:
    return head_objection(voxels, spacing, coarse(voxels, spacing))


def scan(*paints: tuple[np.ndarray, float], noise: float = 5.0, seed: int = 0) -> np.ndarray:
    """int16 HU of air with masks painted over one another."""
    hu = np.full(X.shape, float(AIR))
    for mask, value in paints:
        hu[mask] = value
    return (hu + np.random.default_rng(seed).normal(0, noise, hu.shape)).astype(np.int16)


def tube(radius: float, x: float = 0, y: float = 0, flat: float = 1.0) -> np.ndarray:
    slice_ = np.hypot(X[0] - x, (Y[0] - y) / flat) < radius
    return np.broadcast_to(slice_, X.shape)


def ball(radius: float, x: float = 0, y: float = 0, z: float = 15, high: float = 1.0) -> np.ndarray:
    return np.asarray(np.sqrt((X - x) ** 2 + (Y - y) ** 2 + ((Z - z) / high) ** 2) < radius)


def filled(radius: float, wall: float, shell: float, filling: float, noise: float = 5.0) -> np.ndarray:
    """A sphere with a wall: a head phantom, a melon, a dry skull."""
    return scan((ball(radius + wall), shell), (ball(radius), filling), noise=noise)


def limb(radius: float, bone: float, *more: tuple[np.ndarray, float], flat: float = 1.0) -> np.ndarray:
    fat, muscle = tube(radius, flat=flat), tube(radius - 12, flat=flat)
    return scan((fat, FAT), (muscle, MUSCLE), (tube(bone), BONE), (tube(bone * 0.6), FAT), *more)


def neck(radius: float, mandible: bool) -> np.ndarray:
    jaw = (tube(radius - 8) & ~tube(radius - 18) & (Y > 0) & (Z < 0), BONE)
    return scan(
        (tube(radius), FAT),
        (tube(radius - 8), MUSCLE),
        (tube(16, y=-25), BONE),
        (tube(9, y=20), AIR),
        *([jaw] if mandible else []),
    )


def trunk(width: float, inner: tuple[float, float], ribs: bool) -> np.ndarray:
    """A trunk, flat from front to back: fat, muscle, a spine, and a share of `inside`."""
    value, share = inner
    ring = tube(width * 0.85, flat=0.7) & ~tube(width * 0.78, flat=0.7) & (np.sin(Z / 4 + X / 20) > 0.2)
    organs = tube(width * 0.78, flat=0.7) & (np.sin(X / 9) + np.sin(Y / 11) + np.sin(Z / 13) > 3 - 6 * share)
    return scan(
        (tube(width, flat=0.7), FAT),
        (tube(width * 0.85, flat=0.7), MUSCLE),
        *([(ring, BONE)] if ribs else []),
        (organs, value),
        (tube(20, y=-0.5 * width), BONE),
    )


def pelvis(width: float) -> np.ndarray:
    ring = tube(width * 0.8, flat=0.7) & ~tube(width * 0.7, flat=0.7)
    fat = tube(width * 0.7, flat=0.7) & (np.sin(X / 7) + np.sin(Y / 8) + np.sin(Z / 9) > 0.3)
    return scan((tube(width, flat=0.7), FAT), (tube(width * 0.8, flat=0.7), MUSCLE), (ring, BONE), (fat, FAT))


def inserts(radius: float, filling: float, *values: float) -> np.ndarray:
    """A cylinder with rods, as a quality control phantom."""
    angles = np.linspace(0, 2 * np.pi, len(values), endpoint=False)
    rods = [
        (tube(12, 0.6 * radius * np.cos(a), 0.6 * radius * np.sin(a)), value)
        for a, value in zip(angles, values, strict=True)
    ]
    return scan((tube(radius), filling), *rods)


def head(number: int = 0, **changes: Any) -> np.ndarray:
    """A head of the generator, int16 HU."""
    anatomy: Head = replace(draw_anatomy(31, number), **changes)
    hu = head_hu(np.stack([X, -Y, Z], axis=-1), anatomy)
    return (hu + np.random.default_rng(number).normal(0, 4, hu.shape)).astype(np.int16)


NO_HEADS: dict[str, np.ndarray | Callable[[], np.ndarray]] = {
    **{f"water, {r} mm": scan((tube(r), WATER)) for r in (50, 80, 100)},
    **{f"acrylic, {r} mm": scan((tube(r), PLASTIC)) for r in (80, 100)},
    **{f"ACR, {r} mm": inserts(r, WATER, 955, PLASTIC, -95, AIR) for r in (80, 100)},
    "CTDI": inserts(80, PLASTIC, AIR, AIR, AIR, AIR),
    "rods of bone in a ring": inserts(80, WATER, *(6 * [BONE])),
    **{f"water in acrylic, {r} mm": filled(r, 9, PLASTIC, WATER) for r in (70, 85)},
    **{f"water in Teflon, {r} mm": filled(r, 9, BONE, WATER) for r in (60, 75, 85)},
    **{f"a brain's mean in bone, noise {n} HU": filled(78, 8, BONE, 35, noise=n) for n in (2, 5, 10)},
    "polyethylene in bone": filled(78, 8, BONE, FAT),
    "a dry skull": filled(78, 8, BONE, AIR),
    "a helmet": filled(100, 12, PLASTIC, AIR),
    "a melon": filled(90, 12, MUSCLE, 10),
    "a box": scan(((np.abs(X) < 70) & (np.abs(Y) < 80), 40)),
    "a wedge": scan(*((ball(80) & (160 * k / 9 - 80 < X), 10 * k) for k in range(9))),
    **{f"neck, {r} mm": neck(r, False) for r in (45, 55, 65)},
    **{f"neck and jaw, {r} mm": neck(r, True) for r in (55, 65)},
    **{f"chest, {w} mm": trunk(w, (-800, 0.6), True) for w in (80, 100)},
    **{f"abdomen, {w} mm": trunk(w, (FAT, 0.5), False) for w in (80, 100)},
    "upper abdomen": trunk(95, (FAT, 0.4), True),
    **{f"pelvis, {w} mm": pelvis(w) for w in (90, 105)},
    "knee": limb(65, 38, (tube(16, y=50), BONE)),
    "thigh": limb(85, 15),
    "two thighs": scan(
        *((tube(r, x), v) for x in (-48, 48) for r, v in ((45, FAT), (35, MUSCLE), (13, BONE)))
    ),
    "ankle": limb(40, 22, flat=1.4),
    "forearm": limb(35, 8, (tube(8, x=20), BONE)),
    "shoulder": limb(90, 26, (tube(10, x=60), BONE)),
    "hand": scan(*((tube(10, x, flat=2), v) for x in range(-40, 41, 20) for v in (MUSCLE,))),
    "spine": scan((tube(70), MUSCLE), (tube(22), BONE), (tube(9, y=-25), 20)),
    "a small animal's head": filled(32, 4, BONE, 35),
    "a bottle": filled(40, 3, PLASTIC, WATER),
    "a table": scan((np.abs(Y + 60) < 15, -150), ((np.abs(Y + 60) < 18) & (np.abs(Y + 60) > 15), 50)),
    "a gel pack": scan(((np.abs(Y) < 20) & (np.abs(X) < 80), 15)),
    "noise": scan(noise=300),
    "a head of 255 greys": lambda: (np.clip(head(), 0, 80) / 80 * 255).astype(np.int16),
    "a head upside down in HU": lambda: (-head()).astype(np.int16),
    "a head of raw values": lambda: ((head().astype(np.int32) + 1024) // 4).astype(np.int16),
}


def test_there_are_at_least_40_counterexamples() -> None:
    assert len(NO_HEADS) >= 40


@pytest.mark.parametrize("name", NO_HEADS)
def test_counterexamples_are_rejected(name: str) -> None:
    made = NO_HEADS[name]
    assert objection(made() if callable(made) else made, SPACING) is not None


@pytest.mark.parametrize("number", range(24))
def test_heads_are_accepted(number: int) -> None:
    assert objection(head(number), SPACING) is None


@pytest.mark.parametrize("first", [0, 12, 25, 38])
def test_a_60_mm_part_of_a_head_is_accepted(first: int) -> None:
    assert brain_objection(coarse(head()[first : first + 20], SPACING)) is None


def test_a_head_without_a_bone_flap_is_accepted() -> None:
    """A hemicraniectomy: 12 by 15 cm of the vault are missing."""
    made = head()
    flap = (X > 40) & (np.hypot(Y, Z - 40) < 70) & (made > 150)
    made[flap] = 35
    assert flap.sum() * STEP**3 > 3e4
    assert objection(made, SPACING) is None


@pytest.mark.parametrize("scale", [0.62, 0.75, 1.12])
def test_newborns_and_large_heads_are_accepted(scale: float) -> None:
    assert objection(head(scale=(scale, scale, scale)), SPACING) is None


def test_a_brain_that_is_a_third_csf_or_full_of_blood_is_accepted() -> None:
    for value, radius in ((5, 45), (75, 35)):
        made = head()
        made[ball(radius, z=25) & (made > -50) & (made < 90)] = value
        assert objection(made, SPACING) is None


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.5, 0.5), (6.0, 2.0, 2.0)])
def test_the_decision_does_not_depend_on_the_voxel_size(spacing: tuple[float, float, float]) -> None:
    axes = [
        np.arange(low, high, step)
        for (low, high), step in zip(((0, 70), (-105, 105), (-90, 90)), spacing, strict=True)
    ]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    points = np.stack([-x, -y, z], axis=-1)
    noise = np.random.default_rng(0).normal(0, 5, z.shape)
    assert (
        brain_objection(coarse((head_hu(points, draw_anatomy(31, 1)) + noise).astype(np.int16), spacing))
        is None
    )
    water = np.where(np.sqrt(x**2 + y**2) < 80, 0, np.where(np.sqrt(x**2 + y**2) < 88, BONE, AIR))
    assert brain_objection(coarse((water + noise).astype(np.int16), spacing)) is not None
