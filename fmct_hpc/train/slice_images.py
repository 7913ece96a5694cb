"""Slices of volumes as PNG files, drawn with Pillow, which takes a fiftieth of matplotlib's time."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shards.atomic import atomic_path

PANEL = 160
"""Edge of a panel in pixels: the field is a cube for views of any shape."""
GAP, TITLE = 8, 20


def slices(path: Path, volumes: Mapping[str, np.ndarray]) -> None:
    """Write float volumes (D, H, W) in [0, 1] by title, a row of three slices each, as a PNG, atomically."""
    rows = {title: [_grey(plane) for plane in _planes(volume)] for title, volume in volumes.items()}
    _write(path, rows)


def heat(path: Path, volume: np.ndarray, over: np.ndarray) -> None:
    """Write slices of a volume (D, H, W) in [0, 1], overlaid by `over`, of the same shape, at least 0.

    Colours of `over` run from black through red and yellow to white at its maximum; both are blended equally.
    """
    glow = over / max(float(over.max()), np.finfo(np.float32).tiny)
    pairs = zip(_planes(volume), _planes(glow), strict=True)
    _write(path, {"": [_grey(plane) // 2 + _hot(hot) // 2 for plane, hot in pairs]})


def _planes(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Axial, coronal and sagittal slices through the middle of (D, H, W), in radiological convention."""
    d, h, w = (edge // 2 for edge in volume.shape)
    return volume[d, ::-1, ::-1], volume[::-1, h, ::-1], volume[::-1, ::-1, w]


def _bytes(values: np.ndarray) -> np.ndarray:
    return (np.clip(values, 0, 1) * 255).round().astype(np.uint8)


def _grey(plane: np.ndarray) -> np.ndarray:
    """uint8 (rows, columns, 3)."""
    return np.repeat(_bytes(plane)[..., None], 3, axis=2)


def _hot(plane: np.ndarray) -> np.ndarray:
    """uint8 (rows, columns, 3): red, then green, then blue rise, each over a third of [0, 1]."""
    return np.stack([_bytes(3 * plane - channel) for channel in range(3)], axis=2)


def _write(path: Path, rows: Mapping[str, list[np.ndarray]]) -> None:
    height = sum((TITLE if title else 0) + PANEL + GAP for title in rows)
    sheet = Image.new("RGB", (3 * PANEL + 2 * GAP, height - GAP))
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(12), 0
    for title, planes in rows.items():
        if title:
            draw.text((sheet.width / 2, top + TITLE / 2), title, fill="white", font=font, anchor="mm")
            top += TITLE
        for column, plane in enumerate(planes):
            panel = Image.fromarray(plane).resize((PANEL, PANEL), Image.Resampling.NEAREST)
            sheet.paste(panel, (column * (PANEL + GAP), top))
        top += PANEL + GAP
    path.parent.mkdir(exist_ok=True)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
