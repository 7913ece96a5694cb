"""A head with voxels declared half or twice as large along any axis is rejected; a head is accepted."""

import numpy as np
import pytest
from synthetic_scan import scan_of, stack_of, stored

from preprocess.anatomy.brain import coarse
from preprocess.anatomy.head import HEAD
from preprocess.anatomy.head_voxels import head_objection
from preprocess.anatomy.proportions import shape_objection

FACTORS = [
    *((0.5, 1, 1), (1, 0.5, 1), (1, 1, 0.5), (0.5, 0.5, 0.5), (1, 0.5, 0.5)),
    *((2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 2), (1, 2, 2)),
]


def objection(voxels: np.ndarray, spacing: tuple[float, float, float]) -> str | None:
    return head_objection(voxels, spacing, coarse(voxels, spacing))


@pytest.fixture(scope="module")
def heads() -> list[np.ndarray]:
    """Heads of four patients, upright and tilted, in voxels of 4 mm."""
    scans = [(stack_of(np.arange(-90, 110, 5.0), tilt=20.0 * (n % 2)), n) for n in range(4)]
    return [stored(scan_of(slices, patient), slices, 4.0)[1] for slices, patient in scans]


def test_normal_heads_have_plausible_proportions(heads: list[np.ndarray]) -> None:
    assert [objection(voxels, (4.0, 4.0, 4.0)) for voxels in heads] == [None] * len(heads)


@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_a_wrong_declared_voxel_size_is_detected(
    heads: list[np.ndarray], factors: tuple[float, float, float]
) -> None:
    spacing = (4.0 * factors[0], 4.0 * factors[1], 4.0 * factors[2])
    assert all(objection(voxels, spacing) for voxels in heads)


def test_a_cropped_vertex_leaves_the_height_unjudged() -> None:
    """A sphere of 80 mm radius, whole, halved in height, and the same without its upper half."""
    z, y, x = np.indices((50, 50, 50)) * 4.0 - 98.0
    whole = x**2 + y**2 + z**2 < 80**2
    assert shape_objection(whole, (4.0, 4.0, 4.0), HEAD) is None
    assert shape_objection(whole, (2.0, 4.0, 4.0), HEAD) is not None
    assert shape_objection(whole[:25], (2.0, 4.0, 4.0), HEAD) is None
