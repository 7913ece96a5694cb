"""The scanners of the export: vendor-specific DICOM attributes and image texture."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Kernel:
    """A reconstruction kernel: its names (Convolution Kernel 0018,1210) and its effect on the pixels."""

    names: tuple[str, ...]
    sharp: bool
    noise_hu: float
    """Standard deviation of the noise."""

    def apply(self, clean_hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Slices (slices, rows, columns) of HU with the kernel's sharpness and noise texture, float32."""
        noise = rng.standard_normal(clean_hu.shape, dtype=np.float32)
        if self.sharp:
            noise -= _smooth(noise, 1.0)
            clean_hu = clean_hu + 0.8 * (clean_hu - _smooth(clean_hu, 0.8))
        else:
            noise = _smooth(noise, 0.6)
        scales = np.array([np.float32(self.noise_hu / one.std()) for one in noise])
        return clean_hu + noise * scales[:, None, None]


def _smooth(slices: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(slices, sigma, axes=(1, 2))


@dataclass(frozen=True)
class Encoding:
    """The encoding of HU as stored integers: HU = slope · stored + intercept (PS3.3 C.11.1)."""

    signed: bool
    bits_stored: int
    slope: float
    intercept: float
    padding: int | None
    """Pixel Padding Value (0028,0120) stored outside the reconstruction circle, or None for plain air."""

    def store(self, hu: np.ndarray, inside_circle: np.ndarray) -> np.ndarray:
        """Stored values (..., rows, columns), int16 or uint16; inside_circle: (rows, columns)."""
        low = -(2 ** (self.bits_stored - 1)) if self.signed else 0
        high = low + 2**self.bits_stored - 1
        stored = np.clip(np.rint((hu - self.intercept) / self.slope), low, high)
        outside = self.padding if self.padding is not None else max(low, round(-1024 - self.intercept))
        stored = np.where(inside_circle, stored, outside)
        return stored.astype(np.int16 if self.signed else np.uint16)


@dataclass(frozen=True)
class Scanner:
    """One scanner's protocol for the head."""

    manufacturer: str
    model: str
    soft: Kernel
    bone: Kernel
    encoding: Encoding
    kvp: int
    slice_distance: float
    """mm; equal to the slice thickness."""
    field_of_view: float
    """mm, the side of the square image."""
    origin: tuple[float, float, float]
    """Typical patient LPS mm of the head's centre: the origin differs by vendor."""
    head_rest: bool
    superior_first: bool
    """Whether instance 1 is the topmost slice."""


SCANNERS = (
    Scanner(
        "GE MEDICAL SYSTEMS",
        "LightSpeed VCT",
        Kernel(("STANDARD",), False, 4.0),
        Kernel(("BONEPLUS",), True, 28.0),
        Encoding(signed=True, bits_stored=16, slope=1, intercept=0, padding=-2000),
        kvp=120,
        slice_distance=5.0,
        field_of_view=245.0,
        origin=(0, 0, 40),
        head_rest=True,
        superior_first=False,
    ),
    Scanner(
        "SIEMENS",
        "SOMATOM Definition AS",
        Kernel(("J40s", "3"), False, 3.5),
        Kernel(("H70h",), True, 32.0),
        Encoding(signed=False, bits_stored=12, slope=1, intercept=-1024, padding=None),
        kvp=120,
        slice_distance=4.8,
        field_of_view=240.0,
        origin=(0, -160, -480),
        head_rest=False,
        superior_first=True,
    ),
    Scanner(
        "Philips",
        "iCT 256",
        Kernel(("UB",), False, 4.5),
        Kernel(("YB",), True, 30.0),
        Encoding(signed=False, bits_stored=12, slope=1, intercept=-1024, padding=None),
        kvp=120,
        slice_distance=5.0,
        field_of_view=250.0,
        origin=(0, -110, 1200),
        head_rest=True,
        superior_first=False,
    ),
    Scanner(
        "TOSHIBA",
        "Aquilion ONE",
        Kernel(("FC26",), False, 5.0),
        Kernel(("FC30",), True, 26.0),
        Encoding(signed=True, bits_stored=16, slope=1, intercept=0, padding=None),
        kvp=135,
        slice_distance=5.0,
        field_of_view=240.0,
        origin=(0, 60, -90),
        head_rest=False,
        superior_first=True,
    ),
)
