"""Simulated changes of the scan protocol of a head CT, by severity; each is a function of the HU.

Volumes are (D, H, W) = (z, y, x) in HU, spacing (D, H, W) in mm. A change is a function and its row in
`CHANGES`. Severity 0 is the identity.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

FWHM_OF_SIGMA = float(2 * np.sqrt(2 * np.log(2)))
"""Full width at half maximum of a Gaussian, in standard deviations: 2 √(2 ln 2)."""
SHARPENED_MM = 2.0
"""FWHM of the blur in unsharp masking: amplifies detail finer than about two voxels of 1 mm."""
MIN_HU, MAX_HU = -1024, 32767
"""Lower end of scanners' scale and upper end of int16; changed values are clipped to these."""
_NOISE = int.from_bytes(b"noise")

FloatArray = NDArray[np.float32]


def thicker(volume: FloatArray, spacing_mm: Sequence[float], slab_mm: float, draw: "Draw") -> FloatArray:
    """Contiguous slices of `slab_mm` (Slice Thickness, 0018,0050), resampled to the grid.

    Each slice is the mean over its extent along z, from the volume's lower edge, with voxels as boxes. Values
    are linear between the slices' centres and constant beyond the outermost. Slices thinner than the grid's
    leave the volume unchanged.
    """
    if slab_mm <= spacing_mm[0]:
        return volume
    edges = np.arange(len(volume) + 1) * spacing_mm[0]
    cuts = np.append(np.arange(0, edges[-1] - 1e-6, slab_mm), edges[-1])
    low, high = np.maximum.outer(cuts[:-1], edges[:-1]), np.minimum.outer(cuts[1:], edges[1:])
    means = np.clip(high - low, 0, None) / np.diff(cuts)[:, None]
    middles, places = (cuts[:-1] + cuts[1:]) / 2, (edges[:-1] + edges[1:]) / 2
    between = np.stack([np.interp(places, middles, one) for one in np.eye(len(middles))], axis=1)
    flat = volume.reshape(len(volume), -1)
    return ((between @ means).astype(np.float32) @ flat).reshape(volume.shape)


def blur(volume: FloatArray, spacing_mm: Sequence[float], fwhm_mm: float, draw: "Draw") -> FloatArray:
    """A smoother kernel: an axial Gaussian of `fwhm_mm`, with edge values replicated outside."""
    for axis in (1, 2):
        sigma = fwhm_mm / FWHM_OF_SIGMA / spacing_mm[axis]
        volume = gaussian_filter1d(volume, sigma, axis=axis, mode="nearest")
    return volume


def sharpen(volume: FloatArray, spacing_mm: Sequence[float], amount: float, draw: "Draw") -> FloatArray:
    """A sharper kernel: unsharp masking in the axial plane, volume + amount · (volume - its blur)."""
    return volume + np.float32(amount) * (volume - blur(volume, spacing_mm, SHARPENED_MM, draw))


def noise(volume: FloatArray, spacing_mm: Sequence[float], sd_hu: float, draw: "Draw") -> FloatArray:
    """Gaussian noise of `sd_hu`, independent in each voxel; a function of (seed, volume key, voxel)."""
    return volume + np.float32(sd_hu) * draw.generator().standard_normal(volume.shape, dtype=np.float32)


class Draw(NamedTuple):
    """Seed of the noise."""

    seed: int
    key: str
    """The volume's key: 32 hexadecimal digits."""

    def generator(self) -> np.random.Generator:
        """A Philox generator with the seed; the volume's key is the counter's upper half."""
        counter = [0, 0, int(self.key[16:], 16), int(self.key[:16], 16)]
        return np.random.Generator(np.random.Philox(key=[self.seed, _NOISE], counter=counter))


class Change(NamedTuple):
    """A kind of change."""

    make: Callable[[FloatArray, Sequence[float], float, Draw], FloatArray]
    what: str
    unit: str
    """Unit of its severity."""


CHANGES: Mapping[str, Change] = {
    "thicker": Change(thicker, "thicker slices", "mm"),
    "blur": Change(blur, "smoother kernel", "mm FWHM"),
    "sharpen": Change(sharpen, "sharper kernel", "times the detail"),
    "noise": Change(noise, "more noise", "HU"),
}


def changed(
    volume: NDArray[np.int16], spacing_mm: Sequence[float], change: str, severity: float, draw: Draw
) -> NDArray[np.int16]:
    """The volume (D, H, W) with one of `CHANGES` applied, rounded; unchanged at severity 0."""
    make = CHANGES[change].make
    if not severity:
        return volume
    made = make(volume.astype(np.float32), spacing_mm, severity, draw)
    return np.clip(np.rint(made), MIN_HU, MAX_HU).astype(np.int16)
