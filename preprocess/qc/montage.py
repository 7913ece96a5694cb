"""A sheet of thumbnails as an image file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shards.atomic import atomic_path

MONTAGE_VOLUMES = 60
"""Largest number of volumes on a sheet; of more, an evenly spaced selection is shown."""
MONTAGE_COLUMNS = 4
CAPTION_PIXELS = 14
KEY_DIGITS = 8


def montage(thumbnails: Sequence[tuple[str, np.ndarray]], path: Path) -> None:
    """Write thumbnails (key, uint8 image; all of one size) as one PNG sheet, atomically.

    Captions are the first digits of the keys, which must be keyed hashes. The same thumbnails give the same
    bytes. Raises ValueError without thumbnails.
    """
    if not thumbnails:
        raise ValueError("a montage needs at least one thumbnail")
    count = min(len(thumbnails), MONTAGE_VOLUMES)
    chosen = [thumbnails[i] for i in np.linspace(0, len(thumbnails) - 1, count).round().astype(int)]
    height, width = (size + pad for size, pad in zip(chosen[0][1].shape, (CAPTION_PIXELS, 2), strict=True))
    columns = min(count, MONTAGE_COLUMNS)
    sheet = Image.new("L", (columns * width, -(-count // columns) * height))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for number, (key, picture) in enumerate(chosen):
        top, left = number // columns * height, number % columns * width
        sheet.paste(Image.fromarray(picture), (left, top + CAPTION_PIXELS))
        draw.text((left + 2, top + 1), key[:KEY_DIGITS], fill=255, font=font)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
