"""Thumbnails of a volume: three slices side by side in a display window (for heads, the brain window).

They show a wrong orientation, spacing or rescale, which is hard to see otherwise.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from preprocess.anatomy.head import HEAD

LEVEL_HU, WIDTH_HU = HEAD.window_hu
"""The brain window."""
PANEL_PIXELS = 128
PANEL_MM = 256.0
"""Field of each panel, so that head sizes are comparable; larger volumes are cropped."""
SHAPE = (PANEL_PIXELS, 3 * PANEL_PIXELS)
"""Shape of a thumbnail."""


def thumbnail(
    voxels: np.ndarray,
    spacing_mm: Sequence[float],
    at: tuple[int, int, int] | None = None,
    window_hu: tuple[float, float] = HEAD.window_hu,
) -> np.ndarray:
    """Axial, coronal and sagittal slices through voxel `at` (default: the middle), side by side.

    voxels: HU, (D, H, W) growing towards superior, anterior, right; spacing_mm: (D, H, W).
    Display follows the radiological convention: the patient's right is at the left of axial and
    coronal panels, anterior is up in the axial and to the left in the sagittal one, superior is up.
    window_hu: level and width.
    Returns uint8 (PANEL_PIXELS, 3 · PANEL_PIXELS).
    """
    depth, height, width = at or (size // 2 for size in voxels.shape)
    spacing_d, spacing_h, spacing_w = spacing_mm
    panels = (
        _panel(voxels[depth, ::-1, ::-1], (spacing_h, spacing_w), window_hu),
        _panel(voxels[::-1, height, ::-1], (spacing_d, spacing_w), window_hu),
        _panel(voxels[::-1, ::-1, width], (spacing_d, spacing_h), window_hu),
    )
    return np.concatenate(panels, axis=1)


def _panel(plane: np.ndarray, spacing_mm: tuple[float, float], window_hu: tuple[float, float]) -> np.ndarray:
    """The centre of a slice, windowed, then averaged to square pixels of PANEL_MM / PANEL_PIXELS."""
    level, width = window_hu
    grey = np.clip((plane - (level - width / 2)) / width, 0, 1) * 255
    steps = [PANEL_MM / PANEL_PIXELS / spacing for spacing in spacing_mm]
    # A box filter of one pixel before sampling, so that noise and thin bone do not alias.
    smooth = ndimage.uniform_filter(grey, [max(1, round(step)) for step in steps])
    middle = (PANEL_PIXELS - 1) / 2
    offsets = [(size - 1) / 2 - middle * step for size, step in zip(plane.shape, steps, strict=True)]
    shape = (PANEL_PIXELS, PANEL_PIXELS)
    return np.rint(ndimage.affine_transform(smooth, steps, offsets, shape, order=1)).astype(np.uint8)
