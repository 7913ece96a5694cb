"""An encoder's input from HU and an affine, with NumPy and PyTorch. This module is exported too."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fmct_hpc.data.field import foreground, origin, voxels
from fmct_hpc.data.kernel import AIR_HU, bounds
from fmct_hpc.data.squeezed_field import center_squeezed, field
from fmct_hpc.data.training_spacing import at_training_spacing
from fmct_hpc.fields import edges
from shards.errors import FmctError

AXES_LPS = ((0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (-1.0, 0.0, 0.0))
"""Superior, anterior and right, in DICOM patient coordinates (LPS; PS3.3 C.7.6.2.1.1)."""
ALIGNED = 0.01
"""Tolerance for the sine of the angle between axes of the volume and of the patient (0.6°)."""


def prepare(
    volume: NDArray[np.generic],
    affine: NDArray[np.float64],
    preprocessing: Mapping[str, Any],
    frame: str = "LPS",
) -> Tensor:
    """The encoder's input, float32 (1, C, D, H, W) in [0, 1], for a volume in any orientation.

    Args:
        volume: HU, three axes in any order, with the head in the centre.
        affine: (4, 4), the volume's index to patient coordinates in mm.
        preprocessing: of the encoder, from config.json.
        frame: of the affine, "LPS" (DICOM, ITK) or "RAS" (NIfTI, nibabel).

    Raises FmctError for an array without three axes, and for an invalid affine.
    """
    volume, spacing_mm = along_patient(volume, affine, preprocessing["spacing_mm"], frame)
    return view(volume, spacing_mm, preprocessing)


def view(
    volume: NDArray[np.generic], spacing_mm: Sequence[float], preprocessing: Mapping[str, Any]
) -> Tensor:
    """`prepare` for a volume with axes (D, H, W) towards superior, anterior and right, as spacing_mm."""
    hu, spacing_mm, _ = at_training_spacing(volume, spacing_mm, preprocessing["spacing_mm"])
    limits = torch.from_numpy(bounds(preprocessing["windows"]))
    length_mm, size = preprocessing["field_mm"], edges(preprocessing["view_size"])
    if preprocessing["field"] == "squeezed":
        box = torch.from_numpy(np.ascontiguousarray(hu[foreground(hu)]))
        return center_squeezed(box, limits, round(length_mm), size)[None]
    cube = voxels(length_mm, spacing_mm)
    return field(torch.from_numpy(cut_out(hu, origin(hu.shape, cube), cube)), limits, size)[None]


def cut_out(hu: NDArray[np.int16], start: Sequence[int], size: Sequence[int]) -> NDArray[np.int16]:
    """The box of `size` voxels at `start` in a volume (D, H, W), padded with air."""
    box = np.full(tuple(size), AIR_HU, np.int16)
    ends = [min(first + n, there) for first, n, there in zip(start, size, hu.shape, strict=True)]
    source = tuple(slice(max(first, 0), end) for first, end in zip(start, ends, strict=True))
    target = tuple(slice(s.start - first, s.stop - first) for s, first in zip(source, start, strict=True))
    box[target] = hu[source]
    return box


def along_patient(
    volume: NDArray[np.generic], affine: NDArray[np.float64], spacing_mm: Sequence[float], frame: str
) -> tuple[NDArray[np.generic], Sequence[float]]:
    """The volume (D, H, W) with axes towards superior, anterior and right, and its spacing.

    Axes parallel to the patient's are permuted and flipped without interpolation; otherwise (gantry tilt,
    oblique head) the volume is resampled trilinearly to `spacing_mm`. volume, affine, frame: see `prepare`.
    """
    affine = np.array(affine, np.float64)
    if volume.ndim != 3 or affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise FmctError(f"a volume of shape {volume.shape}: expected three axes and a finite affine (4, 4)")
    if frame not in ("LPS", "RAS"):
        raise FmctError(f"frame {frame}: expected LPS or RAS")
    if frame == "RAS":
        affine[:2] *= -1
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not abs(np.linalg.det(affine[:3, :3])) > 1e-6 * lengths.prod():
        raise FmctError("the affine is not invertible; expected that of the volume, in mm")
    steps = np.array(AXES_LPS) @ affine[:3, :3]
    share = np.abs(steps / lengths)
    order = share.argmax(axis=1)
    if np.sort(share, axis=1)[:, :2].max() > ALIGNED:
        return _resampled(volume, steps, spacing_mm), spacing_mm
    turned = volume.transpose(order)
    backwards = [axis for axis, own in enumerate(order) if steps[axis, own] < 0]
    return np.flip(turned, tuple(backwards)), lengths[order].tolist()


def _resampled(
    volume: NDArray[np.generic], steps: NDArray[np.float64], spacing_mm: Sequence[float]
) -> NDArray[np.float32]:
    """Resample a volume to the enclosing grid along the patient's axes, padded with air.

    steps: (3, 3), mm towards superior, anterior and right for one step along each of the volume's axes.
    """
    last = np.array(volume.shape) - 1
    corners = np.stack(np.meshgrid(*([0, n] for n in last), indexing="ij"), -1).reshape(-1, 3) @ steps.T
    low, high = corners.min(axis=0), corners.max(axis=0)
    shape = np.floor((high - low) / np.array(spacing_mm)).astype(int) + 1
    first = (low + high - (shape - 1) * np.array(spacing_mm)) / 2
    inverse = np.linalg.inv(steps)
    places = [at + np.arange(n) * step for at, n, step in zip(first, shape, spacing_mm, strict=True)]
    grid = torch.from_numpy(np.stack(np.meshgrid(*places, indexing="ij"), -1) @ inverse.T)
    grid = grid / torch.from_numpy(np.maximum(last, 1)) * 2 - 1
    above_air = torch.from_numpy(volume.astype(np.float32) - AIR_HU)[None, None]
    sampled = F.grid_sample(above_air, grid.flip(-1)[None].float(), align_corners=True)  # zeros outside
    return sampled[0, 0].numpy() + np.float32(AIR_HU)
