"""What a file that holds one volume, and is no DICOM, says of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class VolumeFile:
    """One volume, its values not read yet."""

    shape: tuple[int, int, int]
    """Slices, rows, columns."""
    affine: np.ndarray | None
    """float64 (4, 4): (slice, row, column, 1) to patient LPS mm; None for a format that does not say it."""
    read: Callable[[int], np.ndarray]
    """The values of one slice, (rows, columns), of any number type; raises Rejection where it is damaged."""
    beside: Path | None = None
    """The file of the values, where they are not in the one that was opened."""
