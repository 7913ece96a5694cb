"""Plot a volume."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shards.errors import FmctError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BRAIN_HU = (0.0, 80.0)
"""The brain window (level 40, width 80), usual for reading head CT."""


def plot_volume(
    volume: NDArray[np.generic],
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    window_hu: tuple[float, float] = BRAIN_HU,
    slices: int = 12,
) -> "Figure":
    """Axial slices from inferior to superior, evenly spaced, as a matplotlib figure.

    volume: HU (D, H, W), axes towards superior, anterior and right, as in shards; spacing_mm: (D, H, W);
    window_hu: values shown as black and white. Radiological convention: anterior is up, the patient's right
    on the left. Raises FmctError for other shapes, windows or numbers of slices.
    """
    from matplotlib.figure import Figure

    low, high = window_hu
    if volume.ndim != 3 or not volume.size or slices < 1 or low >= high:
        raise FmctError(
            f"plot_volume: expected (D, H, W) with voxels, slices >= 1 and a window (low, high), found shape "
            f"{volume.shape}, slices={slices}, window_hu={window_hu}"
        )
    depth = volume.shape[0]
    count = min(slices, depth)
    columns = min(6, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(2 * columns, 2.2 * rows), layout="constrained")
    for place, index in enumerate(np.linspace(0, depth - 1, count + 2)[1:-1].round().astype(int)):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(
            volume[index, ::-1, ::-1],
            cmap="gray",
            vmin=low,
            vmax=high,
            aspect=spacing_mm[1] / spacing_mm[2],
        )
        axes.set_title(f"{index * spacing_mm[0]:.0f} mm", fontsize=8)
        axes.set_axis_off()
    return figure
