"""A scan with a map over it, as three slices through where the map is greatest."""

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from fmct_hpc.classifier.predict import Answer
from fmct_hpc.relevance.maps import CLS, ScanMaps
from launch.report.document import Gallery, Picture, Section, Text
from preprocess.qc.report import png
from preprocess.qc.thumbnail import LEVEL_HU, WIDTH_HU, thumbnail

KEY_DIGITS = 8
FOR, AGAINST = (255, 120, 0), (40, 130, 255)
"""RGB of what speaks for the label, and against it."""
OPAQUE = 0.7
"""Of the greatest value; the slice stays visible below."""
NOTE = (
    "Axial, coronal and sagittal slices through the patch of the greatest value, in the brain window. Orange "
    "is what raises the score or is looked at, blue what lowers it; each map is scaled to its own greatest "
    "value, so that colours of different maps are not comparable."
)


def pictures_section(scans: int) -> Section:
    """What the pictures of the first `scans` scans, which follow, show."""
    return Section("Pictures", (Text(f"{NOTE} The first {scans} scans are shown."),))


def scan_section(found: ScanMaps) -> Section:
    """All maps of a scan, with what the classifier says of it; no name."""
    pictures = [_picture(found, task, method) for task, method in found.maps]
    role = f", {found.scan.role}" if found.scan.role else ""
    return Section(f"Scan {found.scan.key[:KEY_DIGITS]}{role}", (Gallery(tuple(pictures), wide=True),))


def _picture(found: ScanMaps, task: str, method: str) -> Picture:
    values, scan = found.maps[task, method], found.scan
    at = _greatest(found, values)
    grey = thumbnail(scan.voxels, scan.spacing_mm, at)
    voxels = found.grid.on_volume(values, scan.voxels.shape)
    pixels = overlaid(grey, voxels / (np.abs(values).max() or 1), scan.spacing_mm, at)
    caption = f"{method}, of the CLS token" if task == CLS and not found.answers else f"{task}, {method}"
    caption += _said(found.answers.get(task))
    return Picture(Markup('<img src="{}" alt="{}">').format(png(pixels), caption), caption)


def overlaid(
    grey: NDArray[np.uint8],
    scaled: NDArray[np.float32],
    spacing_mm: tuple[float, float, float],
    at: tuple[int, int, int],
) -> NDArray[np.uint8]:
    """A `thumbnail` in RGB under a map's same slices: (rows, columns, 3); scaled: (D, H, W) in [-1, 1]."""
    picture = np.repeat(grey[:, :, None].astype(np.float64), 3, axis=2)
    for colour, sign in ((FOR, 1), (AGAINST, -1)):
        # As HU that the thumbnail's window shows from black to white.
        share = (
            thumbnail(LEVEL_HU - WIDTH_HU / 2 + np.maximum(sign * scaled, 0) * WIDTH_HU, spacing_mm, at) / 255
        )
        picture += OPAQUE * share[:, :, None] * (np.array(colour) - picture)
    return np.rint(picture).astype(np.uint8)


def _greatest(found: ScanMaps, values: NDArray[np.float32]) -> tuple[int, int, int]:
    """The voxel in the middle of the patch with the greatest value."""
    grid = found.grid
    patch = np.array(np.unravel_index(int(values.argmax()), values.shape))
    middle = np.rint(grid.first + (patch + 0.5) * grid.edges / grid.shape).astype(int)
    d, h, w = np.clip(middle, 0, np.array(found.scan.voxels.shape) - 1).tolist()
    return d, h, w


def _said(answer: Answer | None) -> str:
    if answer is None:
        return ""
    said = f": score {answer.score:.3f}"
    if answer.kind == "multiclass":
        said = f", class {answer.value:g}{said}"
    if answer.probability is not None:
        said += f", probability {answer.probability:.3f}"
    return (
        said if answer.positive is None else f"{said}, called {'positive' if answer.positive else 'negative'}"
    )
