"""A non-DICOM file that holds one volume."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class VolumeFile:
    """One volume whose values are not read yet."""

    shape: tuple[int, int, int]
    """Slices, rows, columns."""
    affine: np.ndarray | None
    """float64 (4, 4): (slice, row, column, 1) to patient LPS mm; None for a format without an affine."""
    read: Callable[[int], np.ndarray]
    """The values of one slice, (rows, columns), of any number type; raises Rejection if it is damaged."""
    beside: Path | None = None
    """The file of the values, if it is not the opened one."""
