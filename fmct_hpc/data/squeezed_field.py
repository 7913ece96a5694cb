"""The reference's field: a head's foreground, windowed, then resized to a cube without keeping its aspect.

NYUMedML/headCT_foundation, `loading_transforms`: CropForeground, windows, Resize (MONAI's default,
"area") to 224³; `DataAugmentationDINO3D` then crops that and resizes the crop. Averaging twice differs
from averaging once, so the whole field is built, as in the reference. It costs several times as much as
the isotropic field's single pass, and exists to reproduce the reference's numbers.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from fmct_hpc.fields import Edges, Size


def field(box: Tensor, bounds: Tensor, size: Size) -> Tensor:
    """Window a foreground box, int16 HU (D, H, W), and resize it: float32 (C, *size)."""
    low, high = bounds.T[:, :, None, None, None]
    windowed = (box.float().sub(low).div_(high - low)).clamp_(0, 1)
    return functional.adaptive_avg_pool3d(windowed, size)


def cut_squeezed(
    boxes: list[Tensor],
    geometry: list[Tensor],
    shifts: list[Tensor],
    bounds: list[Tensor],
    field_size: int,
    sizes: Sequence[Edges],
) -> tuple[list[Tensor], ...]:
    """`cut_gpu.cut_on_gpu` for the squeezed field, on any device; starts and edges in the field's voxels."""
    samples = []
    for box, where, shift, limits in zip(boxes, geometry, shifts, bounds, strict=True):
        whole = field(box, limits, field_size)
        views = []
        for (start, edge, flip), added, size in zip(where.tolist(), shift, sizes, strict=True):
            crop = whole[(slice(None), *(slice(s, s + e) for s, e in zip(start, edge, strict=True)))]
            view = functional.adaptive_avg_pool3d(crop, size)
            views.append(view.flip([1 + axis for axis in range(3) if flip[axis]]) + added)
        samples.append(views)
    return tuple([views[number] for views in samples] for number in range(len(samples[0])))


def center_squeezed(box: Tensor, bounds: Tensor, field_size: int, size: Edges) -> Tensor:
    """The whole squeezed field of a foreground box as one view, float32 (C, *size)."""
    return functional.adaptive_avg_pool3d(field(box, bounds, field_size), size)
