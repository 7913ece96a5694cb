"""The synthetic head: a function of patient coordinates, the oracle of other tests."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from preprocess.demo.anatomy import head_hu
from preprocess.demo.head import Head, draw_anatomy
from preprocess.demo.lesions import Bleed, draw_lesion
from preprocess.demo.streams import Stream, generator

BLOOD_ML = 3.0


def grid(step: float) -> np.ndarray:
    """LPS mm (N, 3) of a lattice over the head."""
    axis = np.arange(-100, 101, step)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)


@pytest.fixture(scope="module")
def head() -> Head:
    return draw_anatomy(seed=3, patient=1)


def test_a_point_has_one_value_in_any_sampling(head: Head) -> None:
    points = grid(17.0)
    together = head_hu(points, head)
    apart = np.array([head_hu(point, head) for point in points[::37]])
    np.testing.assert_array_equal(together[::37], apart)
    np.testing.assert_array_equal(head_hu(points.reshape(-1, 2, 3)[:50], head).ravel(), together[:100])


def test_a_moved_head_is_the_same_head_elsewhere(head: Head) -> None:
    angles, origin = (8.0, -5.0, 12.0), (4.0, -160.0, 300.0)
    points = generator(0, Stream.NOISE).uniform(-90, 90, (5000, 3))
    turned = points @ Rotation.from_euler("xyz", angles, degrees=True).as_matrix().T + origin
    moved = head_hu(turned, replace(head, rotation=angles, origin=origin))
    # float32 coordinates differ in the last digits, where edges are 1 mm wide and 2000 HU high.
    assert np.quantile(np.abs(moved - head_hu(points, head)), 0.99) < 0.2


@pytest.mark.parametrize(
    ("place", "point", "low", "high"),
    [
        ("air before the face", (0, -140, 0), -1001, -999),
        ("frontal bone", (0, -86, 20), 300, 1700),
        ("vertex of the skull", (0, 0, 84), 300, 1700),
        ("white matter", (22, 0, 40), 20, 40),
        ("right lateral ventricle", (-13, 0, 23), 0, 12),
        ("left lateral ventricle", (13, 0, 23), 0, 12),
        ("left vitreous", (32, -77, -27), 5, 20),
        ("pharynx", (0, -14, -75), -1001, -900),
        ("cerebellum", (0, 60, -30), 25, 50),
    ],
)
def test_tissues_are_at_their_anatomical_places(
    place: str, point: tuple[int, int, int], low: float, high: float
) -> None:
    nominal = replace(draw_anatomy(3, 1), scale=(1.0, 1.0, 1.0), scalp=5.0, skull=7.0, ventricles=1.0)
    assert low < float(head_hu(np.array(point), nominal)) < high, place


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_head_is_another_head(head: Head, axis: int) -> None:
    """Otherwise a flip in preprocessing would not be detected."""
    points = grid(8.0)
    mirrored = points * np.where(np.arange(3) == axis, -1, 1)
    straight, flipped = head_hu(points, head), head_hu(mirrored, head)
    inside = straight > -500
    assert np.std((straight - flipped)[inside]) > 60


@pytest.mark.parametrize("kind", list(Bleed))
def test_a_bleed_is_visible_inside_the_skull_and_changes_nothing_else(head: Head, kind: Bleed) -> None:
    points = grid(4.0)
    clean = head_hu(points, head)
    for draw in range(4):
        lesion = draw_lesion(generator(draw, Stream.LESION), kind)
        change = head_hu(points, replace(head, lesions=(lesion,))) - clean
        bright = change > 15
        assert bright.sum() * 4**3 / 1000 > BLOOD_ML
        after = (clean + change)[bright]
        assert 40 < np.median(after) <= lesion.hu + 0.01
        # In a point that is mostly bone or air, only the share of brain can fill with blood.
        assert np.abs(change[(clean < -500) | (clean > 800)]).max() < 25
        assert change.max() < 80
