"""Changes of test volumes compared with SciPy and NumPy."""

import numpy as np
import pytest
from scipy.interpolate import interp1d

from fmct_hpc.robustness.changes import CHANGES, FWHM_OF_SIGMA, SHARPENED_MM, Draw, changed

SPACING = (0.5, 0.7, 0.4)
KEY = "0123456789abcdef" * 2
DRAW = Draw(7, KEY)
VOLUME = np.random.default_rng(0).integers(-1000, 2000, (20, 14, 16)).astype(np.int16)


def near(actual: np.ndarray, expected: np.ndarray, within: float = 0.51) -> None:
    assert actual.dtype == np.int16
    assert actual == pytest.approx(np.clip(expected, -1024, 32767), abs=within)


@pytest.mark.parametrize(("slab", "voxels"), [(2.5, 5), (2.0, 4), (7.5, 15), (1.25, 2.5)])
def test_thicker_slices_are_linearly_interpolated_means(slab: float, voxels: float) -> None:
    # Each voxel twice, so that a slab of two and a half is five whole ones.
    fine = np.repeat(VOLUME.astype(np.float64), 2, axis=0)
    cuts = np.arange(0, len(fine), int(2 * voxels))
    parts = np.split(fine, cuts[1:])
    means = np.stack([part.mean(axis=0) for part in parts])
    middles = [cut + len(part) / 2 for cut, part in zip(cuts, parts, strict=True)]
    line = interp1d(middles, means, axis=0, bounds_error=False, fill_value=(means[0], means[-1]))
    near(changed(VOLUME, SPACING, "thicker", slab, DRAW), line(np.arange(20) * 2 + 1.0))


def convolved(fwhm: float) -> np.ndarray:
    blurred = VOLUME.astype(np.float64)
    for axis in (1, 2):
        sigma = fwhm / FWHM_OF_SIGMA / SPACING[axis]
        reach = np.arange(-40, 41)
        kernel = np.exp(-(reach**2) / (2 * sigma**2))
        pad = [(40, 40) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(blurred, pad, mode="edge")
        blurred = np.apply_along_axis(np.convolve, axis, padded, kernel / kernel.sum(), "valid")
    return blurred


def test_kernels_are_gaussian_convolutions_in_the_plane() -> None:
    near(changed(VOLUME, SPACING, "blur", 1.3, DRAW), convolved(1.3), 0.65)  # kernels end at four deviations
    sharper = VOLUME + 0.8 * (VOLUME - convolved(SHARPENED_MM))
    near(changed(VOLUME, SPACING, "sharpen", 0.8, DRAW), sharper, 0.65)
    point = np.zeros((1, 81, 81), np.int16)
    point[0, 40, 40] = 20000
    line = changed(point, (1, 0.25, 0.25), "blur", 4.0, DRAW)[0, 40]
    assert (line >= line.max() / 2).sum() * 0.25 == pytest.approx(4.0, abs=0.26), "width at half maximum"


def test_noise_is_drawn_by_seed_and_key_alone() -> None:
    still = np.zeros((40, 40, 40), np.int16)
    own = changed(still, SPACING, "noise", 20.0, DRAW)
    assert (own == changed(still, SPACING, "noise", 20.0, DRAW)).all()
    assert own.std() == pytest.approx(20, rel=0.01)
    assert abs(own.mean()) < 0.5
    others = [Draw(8, KEY), Draw(7, "1" + KEY[1:]), Draw(7, KEY[:-1] + "0")]
    for draw in others:
        other = changed(still, SPACING, "noise", 20.0, draw)
        assert abs(np.corrcoef(own.ravel(), other.ravel())[0, 1]) < 0.02
    twice = changed(still, SPACING, "noise", 40.0, DRAW)
    assert twice == pytest.approx(2.0 * own, abs=1.01), "severities differ only in size"


@pytest.mark.parametrize("change", CHANGES)
def test_severity_0_is_the_volume_itself(change: str) -> None:
    assert changed(VOLUME, SPACING, change, 0, DRAW) is VOLUME
    assert (changed(VOLUME, SPACING, change, 1e-9, DRAW) == VOLUME).all()
