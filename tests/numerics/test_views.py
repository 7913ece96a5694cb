"""Views against independent code: PyTorch's area interpolation, SciPy's filters, MONAI's formulas."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from torch.nn import functional

from fmct_hpc.config import DataConfig
from fmct_hpc.data.draw import ViewParameters
from fmct_hpc.data.field import center_view
from fmct_hpc.data.graph import build_pipeline
from fmct_hpc.data.kernel import cut_view
from fmct_hpc.data.order import Order, Share
from fmct_hpc.data.source import Sample, ViewSource, augmentation

WINDOWS = DataConfig(path=Path("unused")).windows


def windows_then_area(crop: np.ndarray, windows: tuple[tuple[float, float], ...], size: int) -> torch.Tensor:
    """The reference's windows (ScaleIntensityRange with clip) and resize (mode="area"), in float64."""
    hu = torch.from_numpy(crop.astype(np.float64))
    channels = [((hu - (level - width / 2)) / width).clamp(0, 1) for level, width in windows]
    return functional.interpolate(torch.stack(channels)[None], size=(size,) * 3, mode="area")[0]


def crop_with_air(volume: np.ndarray, start: tuple[int, ...], edge: tuple[int, ...]) -> np.ndarray:
    """[start, start + edge) of a volume that goes on as air."""
    pad = max(edge) + max(abs(s) for s in start)
    padded = np.pad(volume, pad, constant_values=-1000)
    return padded[tuple(slice(pad + s, pad + s + e) for s, e in zip(start, edge, strict=True))]


def head(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Noise that reaches below and above every window, int16 HU."""
    return np.random.default_rng(seed).integers(-1100, 2500, shape).astype(np.int16)


@settings(deadline=None, max_examples=100)
@given(
    start=st.tuples(*[st.integers(-12, 20)] * 3),
    edge=st.tuples(*[st.integers(1, 45)] * 3),
    size=st.integers(1, 33),
    windows=st.lists(st.tuples(st.floats(-900, 1500), st.floats(1, 4000)), min_size=1, max_size=4).map(tuple),
)
def test_kernel_is_windows_then_area_for_any_box(start, edge, size, windows):
    volume = head((23, 30, 17))
    expected = windows_then_area(crop_with_air(volume, start, edge), windows, size)
    view = cut_view(volume, start, edge, windows, size)
    assert view.dtype == np.float32
    np.testing.assert_allclose(view, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("edge", [(64, 64, 64), (96, 112, 80), (168, 131, 97), (224, 224, 224)])
def test_kernel_at_full_size_up_and_down(edge):
    volume = head((150, 180, 170), seed=edge[0])
    start = tuple((n - e) // 2 for n, e in zip(volume.shape, edge, strict=True))
    expected = windows_then_area(crop_with_air(volume, start, edge), WINDOWS, 96)
    np.testing.assert_allclose(cut_view(volume, start, edge, WINDOWS, 96), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((40, 61, 33), (1.0, 1.0, 1.0)), ((12, 90, 91), (2.5, 0.8, 0.8)), ((70, 70, 70), (1, 1, 1))],
)
def test_center_view_is_the_padded_or_cropped_field(shape, spacing):
    data = DataConfig(
        path=Path("unused"),
        view_size=24,
        field_mm=64,
        global_crop_mm=(32, 64),
        local_field_mm=48,
        local_crop_mm=(16, 32),
    )
    volume = head(shape)
    edge = tuple(round(64 / s) for s in spacing)
    # MONAI's ResizeWithPadOrCrop: pad (f - n) // 2 voxels before, or crop from n // 2 - f // 2 on.
    start = tuple(-((f - n) // 2) if n <= f else n // 2 - f // 2 for f, n in zip(edge, shape, strict=True))
    expected = windows_then_area(crop_with_air(volume, start, edge), WINDOWS, 24)
    np.testing.assert_allclose(center_view(volume, spacing, data), expected, rtol=0, atol=1e-6)


class OneSample(ViewSource):
    """Feeds the graph two views of noise with the given parameters."""

    def __init__(self, data: DataConfig, views: np.ndarray, drawn: list[ViewParameters]):
        self.data, self.views, self.drawn = data, views, drawn

    def __call__(self, info):
        return Sample(tuple(self.views), *augmentation(self.drawn, self.data)).flat()


def augment(drawn: list[ViewParameters], size: int = 30) -> tuple[np.ndarray, list[np.ndarray]]:
    """Random views in [0, 1] and what the graph makes of them."""
    data = DataConfig(path=Path("unused"), view_size=size, local_views=1, workers=0)
    views = np.random.default_rng(1).random((3, 3, size, size, size), dtype=np.float32)
    drawn = [*drawn, ViewParameters((0, 0, 0), (1, 1, 1))]
    pipeline = build_pipeline(OneSample(data, views, drawn), data, 1, "cpu", None)
    return views.astype(np.float64), [np.array(output.at(0)) for output in pipeline.run()]


def view(**parameters) -> ViewParameters:
    return ViewParameters((0, 0, 0), (1, 1, 1), **parameters)


@pytest.mark.parametrize("flip", [(True, False, False), (False, True, False), (True, False, True)])
def test_flips_then_shift_are_exact_and_local_views_untouched(flip):
    views, made = augment([view(flip=flip, shift=0.125), view(shift=-0.0625)])
    axes = [1 + axis for axis in range(3) if flip[axis]]
    np.testing.assert_array_equal(made[0], np.float32(np.flip(views[0], axes)) + np.float32(0.125))
    np.testing.assert_array_equal(made[1], np.float32(views[1]) - np.float32(0.0625))
    np.testing.assert_array_equal(made[2], np.float32(views[2]))


def test_smoothing_follows_flip_and_shift_with_monais_kernel_and_zeros_outside():
    sigma = (0.5, 0.77, 1.0)
    views, made = augment([view(flip=(False, False, True), shift=0.1, sigma=sigma), view()])
    expected = views[0][..., ::-1] + np.float32(0.1)
    for axis, s in enumerate(sigma):
        tail = int(4 * s + 0.5)
        x = np.arange(-tail, tail + 1)
        kernel = stats.norm.cdf(x + 0.5, scale=s) - stats.norm.cdf(x - 0.5, scale=s)
        expected = ndimage.correlate1d(expected, kernel, axis=axis + 1, mode="constant")
    np.testing.assert_allclose(made[0], expected, rtol=0, atol=1e-6)


def test_gamma_follows_shift_over_the_range_of_all_channels():
    views, made = augment([view(), view(shift=-0.15, gamma=0.35)])
    shifted = views[1] - 0.15
    extent = shifted.max() - shifted.min()
    expected = ((shifted - shifted.min()) / extent) ** 0.35 * extent + shifted.min()
    # A power of 0.35 magnifies float32's rounding near the minimum.
    np.testing.assert_allclose(made[1], expected, rtol=0, atol=1e-4)


def test_gamma_leaves_a_constant_view_finite():
    data = DataConfig(path=Path("unused"), view_size=8, local_views=0, workers=0)
    source = OneSample(data, np.zeros((2, 3, 8, 8, 8), np.float32), [view(), view(shift=0.1, gamma=0.5)])
    made = np.array(build_pipeline(source, data, 1, "cpu", None).run()[1].at(0))
    np.testing.assert_array_equal(made, np.float32(0.1))


class OneVolume:
    """A dataset of one volume in memory."""

    def __init__(self, volume: np.ndarray, spacing: tuple[float, float, float]):
        self.volume = volume
        self.index = pa.table({"shape": [list(volume.shape)]})
        self.info = type("Info", (), {"spacing_mm": spacing})

    def read_box(self, i, start, stop):
        return self.volume[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))].copy()


@pytest.mark.parametrize("shape", [(20, 60, 50), (90, 70, 80), (3, 3, 3)])
def test_one_read_serves_every_view_as_if_cut_from_the_padded_field(shape):
    data = DataConfig(
        path=Path("unused"),
        view_size=16,
        field_mm=64,
        global_crop_mm=(20, 64),
        local_field_mm=56,
        local_crop_mm=(8, 32),
    )
    volume = head(shape)
    source = ViewSource(OneVolume(volume, (1.0, 1.0, 1.0)), data, Share(Order(0, (1,), 1), 0, 1, 1), 0)
    start = [-((64 - n) // 2) if n <= 64 else n // 2 - 32 for n in shape]
    field = crop_with_air(volume, tuple(start), (64, 64, 64))
    for epoch in range(8):
        drawn = source.draw(epoch, 0)
        for made, parameters in zip(source.sample(epoch, 0).views, drawn, strict=True):
            box = tuple(slice(s, s + e) for s, e in zip(parameters.start, parameters.edge, strict=True))
            np.testing.assert_allclose(made, windows_then_area(field[box], WINDOWS, 16), rtol=0, atol=1e-6)
