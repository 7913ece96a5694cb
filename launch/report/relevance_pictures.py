"""A scan with a map overlay, as three slices through the map's maximum."""

from base64 import b64encode
from collections.abc import Iterable, Iterator

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
"""RGB of positive and negative relevance."""
OPAQUE = 0.7
"""Opacity of the maximum; the slice remains visible."""
NOTE = (
    "Axial, coronal and sagittal slices through the patch with the highest value, in the brain window. "
    "Orange regions raise the score or are attended to, blue regions lower it. Each map is scaled to its own "
    "maximum, so colours of different maps are not comparable."
)


def pictures_section(scans: int) -> Section:
    """An explanation of the pictures of the first `scans` scans, which follow it."""
    return Section("Pictures", (Text(f"{NOTE} The first {scans} scans are shown."),))


def scan_title(scan_maps: ScanMaps) -> str:
    """A scan's heading, without a name."""
    role = f", {scan_maps.scan.role}" if scan_maps.scan.role else ""
    return f"Scan {scan_maps.scan.key[:KEY_DIGITS]}{role}"


def scan_pictures(scan_maps: ScanMaps) -> Iterator[tuple[str, bytes]]:
    """Yield caption, with the classifier's prediction, and base64 of the PNG of each map of a scan."""
    for task, method in scan_maps.maps:
        yield _picture(scan_maps, task, method)


def scan_section(title: str, pictures: Iterable[tuple[str, bytes]]) -> Section:
    """The pictures (caption, PNG) of a scan."""
    shown = [
        Picture(
            Markup('<img src="data:image/png;base64,{}" alt="{}">').format(b64encode(own).decode(), caption),
            caption,
        )
        for caption, own in pictures
    ]
    return Section(title, (Gallery(tuple(shown), wide=True),))


def _picture(scan_maps: ScanMaps, task: str, method: str) -> tuple[str, bytes]:
    values, scan = scan_maps.maps[task, method], scan_maps.scan
    at = _greatest(scan_maps, values)
    grey = thumbnail(scan.voxels, scan.spacing_mm, at)
    voxels = scan_maps.grid.on_volume(values, scan.voxels.shape)
    pixels = overlaid(grey, voxels / (np.abs(values).max() or 1), scan.spacing_mm, at)
    caption = f"{method}, of the CLS token" if task == CLS and not scan_maps.answers else f"{task}, {method}"
    caption += _prediction(scan_maps.answers.get(task))
    return caption, png(pixels).partition(",")[2].encode()


def overlaid(
    grey: NDArray[np.uint8],
    scaled: NDArray[np.float32],
    spacing_mm: tuple[float, float, float],
    at: tuple[int, int, int],
) -> NDArray[np.uint8]:
    """A `thumbnail` with a map overlay, RGB (rows, columns, 3); scaled: the map (D, H, W), -1 to 1."""
    picture = np.repeat(grey[:, :, None].astype(np.float64), 3, axis=2)
    for colour, sign in ((FOR, 1), (AGAINST, -1)):
        # As HU over the range of the thumbnail's window.
        share = (
            thumbnail(LEVEL_HU - WIDTH_HU / 2 + np.maximum(sign * scaled, 0) * WIDTH_HU, spacing_mm, at) / 255
        )
        picture += OPAQUE * share[:, :, None] * (np.array(colour) - picture)
    return np.rint(picture).astype(np.uint8)


def _greatest(scan_maps: ScanMaps, values: NDArray[np.float32]) -> tuple[int, int, int]:
    """The voxel at the centre of the patch with the highest value."""
    grid = scan_maps.grid
    patch = np.array(np.unravel_index(int(values.argmax()), values.shape))
    middle = np.rint(grid.first + (patch + 0.5) * grid.edges / grid.shape).astype(int)
    d, h, w = np.clip(middle, 0, np.array(scan_maps.scan.voxels.shape) - 1).tolist()
    return d, h, w


def _prediction(answer: Answer | None) -> str:
    if answer is None:
        return ""
    text = f": score {answer.score:.3f}"
    if answer.kind == "multiclass":
        text = f", class {answer.value:g}{text}"
    if answer.probability is not None:
        text += f", probability {answer.probability:.3f}"
    if answer.positive is not None:
        text += f", predicted {'positive' if answer.positive else 'negative'}"
    return text
