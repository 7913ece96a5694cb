"""Views against independent code: PyTorch's area interpolation, SciPy's filters, the reference in MONAI."""

import dataclasses
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pytest
import torch
from forked_commands import forked_python
from hypothesis import given, settings
from hypothesis import strategies as st
from nvidia.dali import fn, pipeline_def
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline
from scipy import ndimage, stats
from torch.nn import functional
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_triton

from fmct_hpc.data import graph, smooth_dali, smoothing
from fmct_hpc.data.config import DataConfig
from fmct_hpc.data.contrast_cpu import adjust_contrast
from fmct_hpc.data.cut_gpu import cut_row
from fmct_hpc.data.draw import ViewParameters
from fmct_hpc.data.field import center_view
from fmct_hpc.data.graph import build_pipeline, in_place
from fmct_hpc.data.kernel import cut_view
from fmct_hpc.data.order import Order, Share
from fmct_hpc.data.smooth_cpu import smooth
from fmct_hpc.data.source import ViewSource
from shards import Dataset

Edges = tuple[int, int, int]
Windows = tuple[tuple[float, float], ...]

WINDOWS = DataConfig(path=Path("unused")).windows


def windows_then_area(
    crop: np.ndarray, windows: tuple[tuple[float, float], ...], size: int | tuple[int, ...]
) -> torch.Tensor:
    """The reference's windows (ScaleIntensityRange with clip) and resize (mode="area"), in float64."""
    hu = torch.from_numpy(crop.astype(np.float64))
    channels = [((hu - (level - width / 2)) / width).clamp(0, 1) for level, width in windows]
    return functional.interpolate(torch.stack(channels)[None], size=size, mode="area")[0]


def crop_with_air(volume: np.ndarray, start: tuple[int, ...], edge: tuple[int, ...]) -> np.ndarray:
    """[start, start + edge) of a volume surrounded by air."""
    pad = max(edge) + max(abs(s) for s in start)
    padded = np.pad(volume, pad, constant_values=-1000)
    return padded[tuple(slice(pad + s, pad + s + e) for s, e in zip(start, edge, strict=True))]


def padded_field(volume: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """The cube of 64 mm about the middle: MONAI's ResizeWithPadOrCrop.

    An axis of n voxels is padded by (f - n) // 2 before to f voxels, or cropped from n // 2 - f // 2.
    """
    edge = tuple(round(64 / s) for s in spacing)
    pairs = zip(edge, volume.shape, strict=True)
    return crop_with_air(
        volume, tuple(-((f - n) // 2) if n <= f else n // 2 - f // 2 for f, n in pairs), edge
    )


def head(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Noise that reaches below and above every window, int16 HU."""
    return np.random.default_rng(seed).integers(-1100, 2500, shape).astype(np.int16)


# Integer bounds are summed as 16-bit numbers if they fit, others as floats.
window = st.one_of(
    st.tuples(st.floats(-900, 1500), st.floats(1, 4000)),
    st.tuples(st.integers(-900, 1500), st.integers(1, 2000).map(lambda half: 2 * half)),
)


@settings(deadline=None, max_examples=150)
@given(
    flip=st.tuples(*[st.booleans()] * 3),
    shift=st.floats(-1, 1, width=32),
    start=st.tuples(*[st.integers(-12, 20)] * 3),
    edge=st.tuples(*[st.integers(1, 45)] * 3),
    size=st.one_of(st.integers(1, 33), st.tuples(*[st.integers(1, 33)] * 3)),
    windows=st.lists(window, min_size=1, max_size=4).map(tuple),
)
def test_kernel_is_windows_then_area_for_any_box(
    start: Edges,
    edge: Edges,
    size: int | Edges,
    windows: Windows,
    flip: tuple[bool, bool, bool],
    shift: float,
) -> None:
    volume = head((23, 30, 17))
    expected = windows_then_area(crop_with_air(volume, start, edge), windows, size)
    expected = expected.flip([1 + axis for axis in range(3) if flip[axis]]) + shift
    view = cut_view(volume, start, edge, windows, size, flip, shift)
    assert view.dtype == np.float32
    # A window's bounds are rounded to float32, which is visible in the narrowest ones of fractional bounds.
    rounding = max((abs(level) + width / 2) / width for level, width in windows) * np.finfo(np.float32).eps
    np.testing.assert_allclose(view, expected, rtol=0, atol=float(1e-5 + rounding))


@pytest.mark.parametrize("size", [96, (56, 224, 224)])
@pytest.mark.parametrize("edge", [(64, 64, 64), (96, 112, 80), (168, 131, 97), (224, 224, 224)])
def test_kernel_at_full_size_up_and_down(edge: Edges, size: int | Edges) -> None:
    volume = head((150, 180, 170), seed=edge[0])
    start = tuple((n - e) // 2 for n, e in zip(volume.shape, edge, strict=True))
    expected = windows_then_area(crop_with_air(volume, start, edge), WINDOWS, size)
    np.testing.assert_allclose(cut_view(volume, start, edge, WINDOWS, size), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [24, (8, 32, 16)])
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((40, 61, 33), (1.0, 1.0, 1.0)), ((12, 90, 91), (2.5, 0.8, 0.8)), ((70, 70, 70), (1, 1, 1))],
)
def test_center_view_is_the_padded_or_cropped_field(
    shape: Edges, spacing: tuple[float, float, float], size: int | Edges
) -> None:
    data = DataConfig(
        path=Path("unused"),
        view_size=size,
        field_mm=64,
        global_crop_mm=(32, 64),
        local_field_mm=48,
        local_crop_mm=(16, 32),
    )
    volume = head(shape)
    expected = windows_then_area(padded_field(volume, spacing), WINDOWS, size)
    np.testing.assert_allclose(center_view(volume, spacing, data), expected, rtol=0, atol=1e-6)


class OneVolume:
    """A dataset of one volume in memory."""

    def __init__(self, volume: np.ndarray, spacing: tuple[float, float, float]):
        self.volume = volume
        self.index = pa.table({"shape": [list(volume.shape)]})
        self.info = type("Info", (), {"spacing_mm": spacing})

    def read(self, i: int) -> np.ndarray:
        return self.volume.copy()

    def read_box(self, i: int, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
        return self.volume[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))].copy()


def one_volume(volume: np.ndarray, spacing: tuple[float, float, float]) -> Dataset:
    return cast(Dataset, OneVolume(volume, spacing))


class FixedSource(ViewSource):
    """Feeds the graph one volume with the given parameters of views."""

    def __init__(self, volume: np.ndarray, data: DataConfig, drawn: list[ViewParameters]):
        super().__init__(one_volume(volume, (1.0, 1.0, 1.0)), data, Share(Order(0, (1,), 1), 0, 1, 1), 0)
        self.drawn = drawn

    def draw(self, epoch: int, index: int) -> list[ViewParameters]:
        return self.drawn


def views_of(volume: np.ndarray, drawn: list[ViewParameters], **changes: Any) -> list[np.ndarray]:
    """The whole graph's views of a volume."""
    data = DataConfig(path=Path("unused"), local_views=len(drawn) - 2, workers=0, **(SMALL | changes))
    source = FixedSource(volume, data, drawn)
    placed: list[list[np.ndarray]] = []

    def places(iteration: int) -> np.ndarray:
        placed.append([np.empty((len(data.windows), *size), np.float32) for size in data.view_sizes])
        return np.array([[(view.ctypes.data, *view.shape[1:]) for view in placed[-1]]], np.uint64)

    pipeline = build_pipeline(lambda iteration: source.batch(iteration, [0]), data, 1, "cpu", None, places)
    *views, taken, skipped = pipeline.run()
    assert np.array(taken.at(0)) == 0
    assert np.array(skipped.at(0)).size == 0
    return placed[0] if in_place(data, "cpu") else [np.array(view.at(0)) for view in views]


SMALL: dict[str, Any] = {
    "view_size": 24,
    "field_mm": 56,
    "global_crop_mm": (28, 56),
    "local_field_mm": 48,
    "local_crop_mm": (16, 28),
}


def reference_view(field: np.ndarray, view: ViewParameters, size: int | tuple[int, int, int]) -> np.ndarray:
    """The reference's chain in MONAI, from its windowed field (C, F, F, F), with these parameters.

    `DataAugmentationDINO3D` in NYUMedML/headCT_foundation, its random transforms replaced by those they
    apply once their parameters are drawn.
    """
    from monai import transforms as mt

    stop = [s + e for s, e in zip(view.start, view.edge, strict=True)]
    chain = [
        mt.SpatialCrop(roi_start=view.start, roi_end=stop),
        mt.Resize((size,) * 3 if isinstance(size, int) else size),
    ]
    chain += [mt.Flip(spatial_axis=axis) for axis in range(3) if view.flip[axis]]
    chain += [mt.ShiftIntensity(offset=view.shift)] if view.shift else []
    chain += [mt.GaussianSmooth(sigma=view.sigma)] if view.sigma else []
    chain += [mt.AdjustContrast(gamma=view.gamma)] if view.gamma else []
    return mt.Compose(chain)(torch.from_numpy(field)).numpy()


def reference_windows(hu: np.ndarray) -> np.ndarray:
    """The reference's `MultipleWindowScaleStack`: HU (D, H, W) to (C, D, H, W)."""
    from monai import transforms as mt

    scale = [mt.ScaleIntensityRange(lv - w // 2, lv + w // 2, 0.0, 1.0, clip=True) for lv, w in WINDOWS]
    return np.concatenate([np.asarray(transform(hu[None].astype(np.float32))) for transform in scale])


DRAWN = [
    ViewParameters((3, 0, 10), (50, 56, 29), (True, False, True), 0.125, (0.5, 0.77, 1.0), None),
    ViewParameters((0, 20, 1), (47, 28, 53), (False, True, False), -0.15, None, 0.35),
    ViewParameters((9, 22, 13), (17, 28, 20)),
    ViewParameters((30, 4, 6), (16, 24, 25)),
]
FLAT, LOCAL = (8, 32, 16), (4, 32, 9)
"""Sizes of global and local views with three edges."""
TOLERANCES = (1e-5, 1e-4, 1e-5, 1e-5)
"""Gamma's is wider: a power of 0.35 magnifies float32's rounding near the minimum."""


def test_windows_equal_monais_exactly() -> None:
    volume = head((60, 60, 60))
    whole = [ViewParameters((2, 2, 2), (24, 24, 24))] * 2  # the size of the view: no averaging
    made = views_of(volume, whole)[0]
    expected = reference_windows(volume)[(slice(None), *(slice(4, 28),) * 3)]
    np.testing.assert_allclose(made, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("shape", [(40, 61, 56), (57, 30, 90)])
@pytest.mark.parametrize(
    ("plain", "size", "local"),
    [(True, 24, 24), (False, 24, 24), (False, 24, 12), (True, FLAT, None), (False, FLAT, LOCAL)],
)
def test_views_equal_the_reference_chain_in_monai(
    shape: Edges, plain: bool, size: int | Edges, local: int | Edges | None
) -> None:
    from monai import transforms as mt

    drawn = [ViewParameters(view.start, view.edge) for view in DRAWN] if plain else DRAWN
    volume = head(shape, seed=1)
    field = mt.ResizeWithPadOrCrop((56,) * 3, value=0)(reference_windows(volume))
    views = views_of(volume, drawn, view_size=size, local_view_size=local)
    sizes = (size, size, local or size, local or size)
    for made, view, size, tolerance in zip(views, drawn, sizes, TOLERANCES, strict=True):
        expected = reference_view(np.asarray(field), view, size)
        np.testing.assert_allclose(made, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("size", "local"), [(24, 12), (FLAT, LOCAL)])
def test_the_squeezed_field_equals_the_references(size: int | Edges, local: int | Edges) -> None:
    from monai import transforms as mt

    volume = np.full((50, 70, 64), -1000, np.int16)
    volume[5:46, 10:66, 3:60] = head((41, 56, 57), seed=2)
    cropped = mt.CropForeground(allow_smaller=False)(torch.from_numpy(volume[None].astype(np.float32)))
    field = mt.Resize((56,) * 3)(reference_windows(np.asarray(cropped)[0]))
    made = views_of(volume, DRAWN, field="squeezed", view_size=size, local_view_size=local)
    sizes = (size, size, local, local)
    for view, parameters, edges, tolerance in zip(made, DRAWN, sizes, TOLERANCES, strict=True):
        expected = reference_view(np.asarray(field), parameters, edges)
        np.testing.assert_allclose(view, expected, rtol=0, atol=tolerance)
    data = DataConfig(path=Path("unused"), field="squeezed", **(SMALL | {"view_size": size}))
    whole = ViewParameters((0, 0, 0), (56, 56, 56))
    expected = reference_view(np.asarray(field), whole, size)
    np.testing.assert_allclose(center_view(volume, (1.0, 1.0, 1.0), data), expected, rtol=0, atol=1e-5)


def test_gamma_leaves_a_constant_view_finite() -> None:
    air = np.full((30, 30, 30), -1000, np.int16)
    drawn = [ViewParameters((0, 0, 0), (40, 40, 40), shift=0.1, gamma=0.5)] * 2
    np.testing.assert_array_equal(views_of(air, drawn)[1], np.float32(0.1))


def test_smoothing_follows_the_erf_kernel_with_zeros_outside() -> None:
    sigma = (0.5, 0.77, 1.0)
    plain = ViewParameters((0, 0, 0), (56, 50, 40))
    before = views_of(head((60, 50, 40)), [plain, plain])[0]
    made = views_of(head((60, 50, 40)), [dataclasses.replace(plain, sigma=sigma), plain])[0]
    expected = before.astype(np.float64)
    for axis, s in enumerate(sigma):
        tail = int(4 * s + 0.5)
        x = np.arange(-tail, tail + 1)
        kernel = stats.norm.cdf(x + 0.5, scale=s) - stats.norm.cdf(x - 0.5, scale=s)
        expected = ndimage.correlate1d(expected, kernel, axis=axis + 1, mode="constant")
    np.testing.assert_allclose(made, expected, rtol=0, atol=1e-6)


@pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
def dali(view: np.ndarray, kernels: np.ndarray, gamma: np.float32) -> tuple[DataNode, DataNode]:
    arrays = fn.external_source(source=lambda: ([view], [kernels], [gamma]), num_outputs=3)
    smoothed = smooth_dali.smooth(arrays[0], arrays[1], view.shape, kernels.shape[1])
    return smoothed, graph.adjust_contrast(arrays[0], arrays[2])


@pytest.mark.parametrize("edge", [(50, 56, 29), (10, 70, 90)])
def test_compiled_smoothing_and_contrast_equal_dalis_operators_bit_for_bit(edge: Edges) -> None:
    """So that a run of an earlier version resumes with the same draws."""
    view = cut_view(head((40, 61, 56)), (3, -9, 10), edge, WINDOWS, FLAT, shift=0.125)
    kernels, gamma = smoothing.taps((0.5, 0.77, 1.0), 4), np.float32(0.35)
    expected = [np.array(output.at(0)) for output in dali(view, kernels, gamma).run()]
    for change, parameter, other in zip((smooth, adjust_contrast), (kernels, gamma), expected, strict=True):
        made = view.copy()
        change(made, parameter)
        np.testing.assert_array_equal(made, other)


@pytest.mark.parametrize(("spacing", "size"), [((1, 1, 1), 16), ((4.0, 0.8, 1.6), (4, 20, 9))])
@pytest.mark.parametrize("shape", [(20, 60, 50), (90, 70, 80), (3, 3, 3)])
def test_one_read_serves_every_view_as_if_cut_from_the_padded_field(
    shape: Edges, spacing: tuple[float, float, float], size: int | Edges
) -> None:
    data = DataConfig(
        path=Path("unused"),
        view_size=size,
        field_mm=64,
        global_crop_mm=(20, 64),
        local_field_mm=56,
        local_crop_mm=(8, 32),
    )
    volume = head(shape)
    source = ViewSource(one_volume(volume, spacing), data, Share(Order(0, (1,), 1), 0, 1, 1), 0)
    field = padded_field(volume, spacing)
    for epoch in range(8):
        sample = source.sample(epoch, 0)
        for (first, edge, _), parameters in zip(sample.geometry, source.draw(epoch, 0), strict=True):
            made = cut_view(sample.box, first, edge, WINDOWS, size)
            box = tuple(slice(s, s + e) for s, e in zip(parameters.start, parameters.edge, strict=True))
            np.testing.assert_allclose(made, windows_then_area(field[box], WINDOWS, size), rtol=0, atol=1e-6)


GPU_CODE = """
import numpy as np, torch
from fmct_hpc.data.cut_gpu import cut_on_gpu
from fmct_hpc.data.kernel import bounds, cut_view

windows, random = ((40, 80), (600, 2801)), np.random.default_rng(0)
box = random.integers(-1100, 2500, (9, 8, 10)).astype(np.int16)
whole = [[[-3, 2, 1], [13, 5, 3], [1, 0, 1]], [[1, -2, 4], [4, 12, 8], [0, 1, 0]]]
local = [[[2, 1, 0], [4, 7, 9], [0, 0, 1]], [[0, 3, 3], [9, 4, 2], [1, 1, 0]]]
geometry = np.array([*whole, *local], np.int32)
shifts, sizes = np.array([0.0, 0.125, -0.25, 0.0], np.float32), ((3, 5, 6), (3, 5, 6), (3, 4, 2), (3, 4, 2))
tensors = [[torch.from_numpy(array)] for array in (box, geometry, shifts, bounds(windows))]
for view, made in enumerate(cut_on_gpu(*tensors, sizes)):
    start, edge, flip = geometry[view]
    expected = cut_view(box, start, edge, windows, sizes[view], flip, float(shifts[view]))
    np.testing.assert_allclose(made[0], expected, rtol=0, atol=1e-6)
"""


def test_the_gpu_kernel_equals_the_cpu_kernel(tmp_path: Path) -> None:
    """By Triton's interpreter, in a separate process: it is chosen when Triton is imported."""
    (tmp_path / "code.py").write_text(GPU_CODE)
    command = [*forked_python(), str(tmp_path / "code.py")]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("field", ["isotropic", "squeezed"])
def test_dali_accepts_the_gpu_graph(
    field: Literal["isotropic", "squeezed"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as testable without a GPU: the operators' devices match, and views stay on the GPU."""
    data = DataConfig(path=Path("unused"), field=field, workers=0, local_view_size=12, **SMALL)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(Pipeline, "build", lambda self: None)
    outputs: list[DataNode] = []
    monkeypatch.setattr(Pipeline, "set_outputs", lambda self, *nodes: outputs.extend(nodes))
    build_pipeline(lambda iteration: [], data, 2, "gpu", 0, lambda iteration: np.empty(0, np.uint64))
    assert [output.device for output in outputs] == ["gpu"] * 4 + ["cpu"] * 2


@pytest.mark.parametrize("capability", [80, 90])
def test_the_gpu_kernel_compiles(capability: int) -> None:
    signature = {"box": "*i16", "geometry": "*i32", "shifts": "*fp32", "bounds": "*fp32", "views": "*fp32"}
    signature |= dict.fromkeys(("depth", "height", "width", "channels"), "i32")
    constants = {"VIEW_D": 56, "VIEW_H": 96, "VIEW_W": 96, "LANES": 128, "AIR": -1000}
    source = ASTSource(cut_row, signature | dict.fromkeys(constants, "constexpr"), constants)
    options = {"enable_fp_fusion": False}
    assert compile_triton(source, target=GPUTarget("cuda", capability, 32), options=options).asm["cubin"]
