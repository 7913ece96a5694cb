"""The parameters drawn for views: within bounds, stateless, with the configured frequencies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fmct_hpc.data.config import DataConfig
from fmct_hpc.data.draw import draw_views
from fmct_hpc.data.field import origin, voxels

DATA = DataConfig(path=Path("unused"))
SPACING = (1.0, 1.0, 1.0)
spacings = st.tuples(*[st.floats(0.4, 5.0)] * 3)


@settings(deadline=None, max_examples=200)
@given(spacing=spacings, seed=st.integers(0, 2**32), epoch=st.integers(0, 999), sample=st.integers(0, 10**6))
def test_crops_have_their_size_in_mm_and_stay_in_the_field(
    spacing: tuple[float, float, float], seed: int, epoch: int, sample: int
) -> None:
    field = voxels(DATA.field_mm, spacing)
    for number, view in enumerate(draw_views(DATA, spacing, seed, epoch, sample)):
        is_global = number < DATA.global_views
        least, greatest = DATA.global_crop_mm if is_global else DATA.local_crop_mm
        room = DATA.field_mm if is_global else DATA.local_field_mm
        for start, edge, mm, size in zip(view.start, view.edge, spacing, field, strict=True):
            assert least - mm / 2 <= edge * mm <= greatest + mm / 2
            # Half a voxel of rounding at each end, and one if the range cannot be centred exactly.
            margin = (size * mm - room) / 2 - 2 * mm
            assert start * mm >= margin
            assert (start + edge) * mm <= size * mm - margin
            assert start >= 0
            assert start + edge <= size


def test_both_ends_of_the_crop_range_are_drawn_on_each_axis_independently() -> None:
    edges = np.array([draw_views(DATA, SPACING, 0, 0, i)[0].edge for i in range(2000)])
    assert edges.min(axis=0).tolist() == [112] * 3
    assert edges.max(axis=0).tolist() == [224] * 3
    assert abs(np.corrcoef(edges.T) - np.eye(3)).max() < 0.1


def test_draws_depend_on_seed_epoch_sample_and_view_alone() -> None:
    again = [draw_views(DATA, SPACING, 0, 2, 5) for _ in range(2)]
    assert again[0] == again[1]
    others = [
        draw_views(DATA, SPACING, *key) for key in ((0, 2, 5), (1, 2, 5), (0, 3, 5), (0, 2, 6), (0, 5, 2))
    ]
    boxes = [(view.start, view.edge) for views in others for view in views]
    assert len(set(boxes)) == len(boxes)


def test_a_changed_probability_affects_no_other_draw() -> None:
    always = DATA.model_copy(update={"flip_probability": 1.0, "shift_probability": 0.0, "local_views": 0})
    for before, after in zip(
        draw_views(DATA, SPACING, 0, 0, 7), draw_views(always, SPACING, 0, 0, 7), strict=False
    ):
        assert (after.start, after.edge, after.sigma, after.gamma) == (
            before.start,
            before.edge,
            before.sigma,
            before.gamma,
        )
        assert after.flip == (True, True, True)
        assert after.shift == 0.0


def test_frequencies_and_ranges_follow_the_recipe() -> None:
    views = [draw_views(DATA, SPACING, 0, 0, i) for i in range(4000)]
    tolerance = 4 * np.sqrt(0.25 / len(views))
    for number in range(DATA.global_views):
        flips = np.mean([v[number].flip for v in views], axis=0)
        shifts = np.array([v[number].shift for v in views])
        assert abs(flips - 0.2).max() < tolerance
        assert abs((shifts != 0).mean() - 0.5) < tolerance
        assert 0.19 < abs(shifts).max() <= 0.2
        assert shifts.min() < 0 < shifts.max()
    sigmas = [v[0].sigma for v in views if v[0].sigma]
    gammas = [v[1].gamma for v in views if v[1].gamma]
    assert abs(len(sigmas) / len(views) - 0.2) < tolerance
    assert abs(len(gammas) / len(views) - 0.2) < tolerance
    assert 0.5 <= np.min(sigmas) < np.max(sigmas) <= 1.0
    assert 0.2 <= min(gammas) < max(gammas) <= 1.0
    assert all(v[0].gamma is None and v[1].sigma is None for v in views)
    plain = [local for v in views for local in v[DATA.global_views :]]
    assert all(not any(p.flip) and p.shift == 0 and p.sigma is None and p.gamma is None for p in plain)


@pytest.mark.parametrize("size", [3, 150, 223, 224, 225, 300])
def test_the_volume_is_centred_in_the_field(size: int) -> None:
    (first, _, _) = origin((size, 224, 224), (224, 224, 224))
    assert abs((first + first + 224) / 2 - size / 2) <= 0.5


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"global_crop_mm": (112, 300)}, "global_crop_mm"),
        ({"local_crop_mm": (120, 64)}, "local_crop_mm"),
        ({"local_field_mm": 250}, "local_field_mm"),
        ({"windows": ((40, 0),)}, "windows"),
        ({"smooth_sigma": (0, 1)}, "smooth_sigma"),
        ({"gamma": (1.0, 0.2)}, "gamma"),
    ],
)
def test_impossible_ranges_are_refused_by_name(change: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=f"data.{key}"):
        DataConfig(path=Path("unused"), **change)
