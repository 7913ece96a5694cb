"""One sheet of many thumbnails, as a picture file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from shards.atomic import atomic_path

MONTAGE_VOLUMES = 60
"""A sheet's most volumes; of more, an evenly spaced choice is shown."""
MONTAGE_COLUMNS = 4
CAPTION_PIXELS = 14
KEY_DIGITS = 8
_DPI = 100


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
