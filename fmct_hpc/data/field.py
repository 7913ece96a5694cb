"""The isotropic field: the cube around a volume's centre that views are cut from, padded or cropped."""

from collections.abc import Sequence

import numpy as np

from fmct_hpc.data.config import DataConfig
from fmct_hpc.data.kernel import bounds, cut_view
from fmct_hpc.fields import edges as sizes_of

Voxels3 = tuple[int, int, int]


def voxels(length_mm: float, spacing_mm: Sequence[float]) -> Voxels3:
    """A length in whole voxels per axis (D, H, W), at least 1."""
    d, h, w = (max(1, round(length_mm / spacing)) for spacing in spacing_mm)
    return d, h, w


def origin(shape: Sequence[int], field: Sequence[int]) -> Voxels3:
    """First voxel of a field of `field` voxels in the coordinates of a volume of `shape` (D, H, W).

    Negative where the field extends beyond the volume. For an odd difference, the extra voxel is on the same
    side as with MONAI's ResizeWithPadOrCrop of an even field, which the reference uses.
    """
    d, h, w = (-int((f - n) / 2) for f, n in zip(field, shape, strict=True))
    return d, h, w


def foreground(volume: np.ndarray) -> tuple[slice, slice, slice]:
    """The bounding box of the voxels above 0 HU in a volume (D, H, W); the whole volume if there are none.

    MONAI's CropForeground with its default `select_fn` on HU, as in the reference.
    """
    inside = volume > 0
    slices = []
    for axes in ((1, 2), (0, 2), (0, 1)):
        hit = np.flatnonzero(inside.any(axis=axes))
        slices.append(slice(int(hit[0]), int(hit[-1]) + 1) if hit.size else slice(None))
    return slices[0], slices[1], slices[2]


def center_box(
    volume: np.ndarray, spacing_mm: Sequence[float], data: DataConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The box that `center_view` shows: its start and its edges, in the volume's index (d, h, w).

    volume: int16 HU (D, H, W). Float64 (3,) each, between outer faces (half a voxel beyond the centres); the
    box may extend beyond the volume.
    """
    if data.field == "squeezed":
        inside = [where.indices(size) for where, size in zip(foreground(volume), volume.shape, strict=True)]
        first, edges = [start for start, _, _ in inside], [stop - start for start, stop, _ in inside]
    else:
        edges = list(voxels(data.field_mm, spacing_mm))
        first = list(origin(volume.shape, edges))
    return np.array(first) - 0.5, np.array(edges, np.float64)


def center_view(volume: np.ndarray, spacing_mm: Sequence[float], data: DataConfig) -> np.ndarray:
    """The whole field without augmentation, for probing.

    Args:
        volume: int16 HU (D, H, W).
        spacing_mm: (D, H, W).
        data: windows, view size and field.

    Returns:
        float32 (C, D, H, W) in [0, 1].
    """
    if data.field == "squeezed":
        import torch  # not at the top: reader processes import this module without PyTorch

        from fmct_hpc.data.squeezed_field import center_squeezed

        box = torch.from_numpy(np.ascontiguousarray(volume[foreground(volume)]))
        limits = torch.from_numpy(bounds(data.windows))
        return center_squeezed(box, limits, round(data.field_mm), sizes_of(data.view_size)).numpy()
    field = voxels(data.field_mm, spacing_mm)
    return cut_view(volume, origin(volume.shape, field), field, data.windows, data.view_size)
