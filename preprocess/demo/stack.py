"""The slice planes of a series: the position of each pixel in the patient."""

from dataclasses import dataclass

import numpy as np

TOP_MM, BOTTOM_MM = 102.0, -70.0
"""Extent of an axial head series, about the head's centre."""


@dataclass(frozen=True)
class Plane:
    """One slice: Image Position and Orientation (Patient), Pixel Spacing (PS3.3 C.7.6.2.1.1)."""

    position: np.ndarray
    """LPS mm (3,) of the first pixel's centre."""
    row: np.ndarray
    """Unit vector (3,) along which the column index grows."""
    column: np.ndarray
    """Unit vector (3,) along which the row index grows."""
    spacing: float
    matrix: int
    thickness: float

    def points(self) -> np.ndarray:
        """LPS mm (rows, columns, 3) of every pixel's centre."""
        steps = np.arange(self.matrix) * self.spacing
        return self.position + steps[:, None, None] * self.column + steps[None, :, None] * self.row

    def inside_circle(self) -> np.ndarray:
        """Which pixels (rows, columns) are in the reconstruction circle."""
        offset = np.arange(self.matrix) - (self.matrix - 1) / 2
        return np.hypot(offset[:, None], offset[None, :]) <= self.matrix / 2


def plane(
    centre: np.ndarray, row: np.ndarray, column: np.ndarray, field: float, matrix: int, thickness: float
) -> Plane:
    """The square slice of `field` mm about `centre`, rounded like its written attributes."""
    row, column = np.round(row, 6), np.round(column, 6)
    spacing = round(field / matrix, 6)
    position = centre - (row + column) * spacing * (matrix - 1) / 2
    return Plane(np.round(position, 4), row, column, spacing, matrix, thickness)


def axial_offsets(slice_distance: float) -> list[tuple[float, float]]:
    """(height in mm about the head's centre, thickness in mm) of evenly spaced slices, from the base up."""
    count = int((TOP_MM - BOTTOM_MM) / slice_distance) + 1
    return [(BOTTOM_MM + i * slice_distance, slice_distance) for i in range(count)]


def base_offsets() -> list[tuple[float, float]]:
    """Thin slices of the skull base, as in sequential scans of a head."""
    return [(BOTTOM_MM + 4.0 * i, 4.0) for i in range(18)]


def vault_offsets() -> list[tuple[float, float]]:
    """Thick slices above those of `base_offsets`."""
    first = base_offsets()[-1][0] + 5.5
    return [(first + 7.0 * i, 7.0) for i in range(int((TOP_MM - first) / 7.0) + 1)]


def axial_axes(tilt: float, turned: float, prone: bool, feet_first: bool) -> tuple[np.ndarray, np.ndarray]:
    """Row and column directions of an axial image.

    tilt: gantry tilt about the patient's left-right axis, degrees; turned: rotation of the image in its
    plane, degrees. Feet first mirrors the row direction; prone also mirrors the column direction, because the
    image then shows the patient from the other side.
    """
    lean, turn = np.radians(tilt), np.radians(turned)
    row = np.array([1.0, 0.0, 0.0])
    column = np.array([0.0, np.cos(lean), -np.sin(lean)])
    row, column = np.cos(turn) * row + np.sin(turn) * column, np.cos(turn) * column - np.sin(turn) * row
    if prone:
        return -row, -column
    return (-row, column) if feet_first else (row, column)
