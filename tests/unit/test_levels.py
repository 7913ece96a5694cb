"""Slices off the scale of the others: without their intercept, or with air in place of the head."""

import numpy as np
import pytest

from preprocess.reasons import Rejection
from preprocess.volume.levels import off_scale

SIZE, STEP = 160, 3.0


def head(slices: int, step: float, *objects: tuple[float, float]) -> np.ndarray:
    """int16 (N, SIZE, SIZE): a ball of radius 80 mm, then plates (from, to), mm along the slices."""
    z = np.arange(slices) * step - 80
    y = (np.arange(SIZE) - SIZE / 2) * STEP
    radius = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + y**2)
    along = np.zeros(slices, bool)
    for first, last in objects:
        along |= (z >= first) & (z <= last)
    plate = along[:, None, None] & (np.maximum(np.abs(y[:, None]), np.abs(y)) < 110)
    return np.where((radius < 80) | plate, 40, -1000).astype(np.int16)


def off(hu: np.ndarray) -> list[int]:
    return np.flatnonzero(off_scale(hu)).tolist()


@pytest.mark.parametrize("lost", [(12,), (9, 15), (10, 11, 12)])
@pytest.mark.parametrize("level", [-1024, -3024])
def test_slices_of_air_within_the_head_are_found(lost: tuple[int, ...], level: int) -> None:
    hu = head(32, 5.0)
    hu[[*lost]] = np.maximum(hu[[*lost]] + level, -1024)
    assert off(hu) == [*lost]


def test_a_block_of_more_than_a_tenth_is_refused() -> None:
    hu = head(32, 5.0)
    hu[10:15] = -1000
    with pytest.raises(Rejection, match="not_hounsfield: 5 of 32 slices"):
        off_scale(hu)


@pytest.mark.parametrize("step", [1.25, 2.5, 5.0])
@pytest.mark.parametrize("gap_mm", [4.0, 8.0, 15.0, 30.0])
def test_air_between_the_head_and_another_object_is_none(step: float, gap_mm: float) -> None:
    """A head cup or table: across it in a coronal series, or above the vertex in an axial one."""
    plate = (80 + gap_mm, 90 + gap_mm)
    assert off(head(int(200 / step), step, plate)) == []


@pytest.mark.parametrize("strays", [(9, 12), (8, 10, 14)])
def test_normal_slices_between_those_without_their_intercept_are_kept(strays: tuple[int, ...]) -> None:
    hu = head(32, 5.0)
    hu[[*strays]] += 1024
    assert off(hu) == [*strays]
