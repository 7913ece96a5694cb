"""Quality control by eye: small pictures of volumes, and one sheet of many.

A wrong orientation, spacing or rescale shows at a glance, and rarely any other way.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

from shards.atomic import atomic_path

LEVEL_HU, WIDTH_HU = 40.0, 80.0
"""The brain window, as radiologists read head CT and as the reference's first channel."""
PANEL_PIXELS = 128
PANEL_MM = 256.0
"""Every panel shows this much, so that heads compare in size; what exceeds it is cut off."""
MONTAGE_VOLUMES = 60
"""A sheet's most volumes; of more, an evenly spaced choice is shown."""
MONTAGE_COLUMNS = 4
CAPTION_PIXELS = 14
KEY_DIGITS = 8
_DPI = 100


def thumbnail(voxels: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Axial, coronal and sagittal slices through the middle of a volume, side by side.

    `voxels` are HU, (D, H, W) growing towards superior, anterior, right; `spacing_mm` goes with them.
    Display follows the radiological convention: the patient's right is at the left of axial and
    coronal panels, anterior is up in the axial and to the left in the sagittal one, superior is up.
    Returns uint8 (PANEL_PIXELS, 3 · PANEL_PIXELS).
    """
    depth, height, width = (np.s_[size // 2] for size in voxels.shape)
    spacing_d, spacing_h, spacing_w = spacing_mm
    panels = (
        _panel(voxels[depth, ::-1, ::-1], (spacing_h, spacing_w)),
        _panel(voxels[::-1, height, ::-1], (spacing_d, spacing_w)),
        _panel(voxels[::-1, ::-1, width], (spacing_d, spacing_h)),
    )
    return np.concatenate(panels, axis=1)


def _panel(plane: np.ndarray, spacing_mm: tuple[float, float]) -> np.ndarray:
    """The centre of a slice, windowed, then averaged to square pixels of PANEL_MM / PANEL_PIXELS."""
    grey = np.clip((plane - (LEVEL_HU - WIDTH_HU / 2)) / WIDTH_HU, 0, 1) * 255
    steps = [PANEL_MM / PANEL_PIXELS / spacing for spacing in spacing_mm]
    # A box as wide as a pixel before sampling, so that noise and thin bone do not alias.
    smooth = ndimage.uniform_filter(grey, [max(1, round(step)) for step in steps])
    middle = (PANEL_PIXELS - 1) / 2
    offsets = [(size - 1) / 2 - middle * step for size, step in zip(plane.shape, steps, strict=True)]
    shape = (PANEL_PIXELS, PANEL_PIXELS)
    return np.rint(ndimage.affine_transform(smooth, steps, offsets, shape, order=1)).astype(np.uint8)


def montage(thumbnails: Sequence[tuple[str, np.ndarray]], path: Path) -> None:
    """Write thumbnails (key, uint8 picture; all of one size) as one PNG sheet, atomically.

    A caption is the first digits of a key, which must be a keyed hash. The same thumbnails give the
    same bytes. Raises ValueError without thumbnails.
    """
    if not thumbnails:
        raise ValueError("a montage needs at least one thumbnail")
    count = min(len(thumbnails), MONTAGE_VOLUMES)
    chosen = [thumbnails[i] for i in np.linspace(0, len(thumbnails) - 1, count).round().astype(int)]
    height, width = (size + pad for size, pad in zip(chosen[0][1].shape, (CAPTION_PIXELS, 2), strict=True))
    columns = min(count, MONTAGE_COLUMNS)
    sheet = np.zeros((-(-count // columns) * height, columns * width), np.uint8)
    figure = Figure(figsize=(sheet.shape[1] / _DPI, sheet.shape[0] / _DPI), dpi=_DPI)
    for number, (key, picture) in enumerate(chosen):
        top, left = number // columns * height, number % columns * width
        sheet[top + CAPTION_PIXELS : top + height, left : left + picture.shape[1]] = picture
        x, y = (left + 2) / sheet.shape[1], 1 - (top + 2) / sheet.shape[0]
        figure.text(x, y, key[:KEY_DIGITS], color="white", family="monospace", size=7, va="top")
    # As colours, the greys are written as they are; a colour map would round some of them.
    figure.figimage(np.repeat(sheet[..., None], 3, axis=2), origin="upper")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
