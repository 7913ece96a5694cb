"""Scans of the demo's synthetic heads as arrays, without DICOM files."""

from dataclasses import replace

import numpy as np

from preprocess.anatomy.head import HEAD
from preprocess.demo.anatomy import head_hu
from preprocess.demo.head import draw_anatomy
from preprocess.demo.stack import axial_axes
from preprocess.dicom.decode import AIR_HU
from preprocess.dicom.geometry import Stack
from preprocess.volume.crop import Head, find_head
from preprocess.volume.resample import Grid, resample

MATRIX, PIXEL_MM = 128, 2.0
"""For a field of view of 256 mm."""


def stack_of(
    heights: np.ndarray, tilt: float = 0.0, matrix: int = MATRIX, centre: tuple[float, float] = (0, 0)
) -> Stack:
    """Axial slices at `heights` (mm above the head's centre), `tilt` degrees, square of `matrix` pixels."""
    column_step, row_step = axial_axes(tilt, 0.0, prone=False, feet_first=False)
    normal = np.cross(column_step, row_step)
    middle = np.array([*centre, 0.0]) + heights[:, None] * np.array([0, 0, 1.0])
    positions = middle - (column_step + row_step) * PIXEL_MM * (matrix - 1) / 2
    return Stack(
        column_step, row_step, normal, positions, positions @ normal, (PIXEL_MM, PIXEL_MM), (matrix, matrix)
    )


def points_of(slices: Stack) -> np.ndarray:
    """float64 (N, rows, columns, 3): LPS mm of every pixel's centre."""
    rows, columns = (
        np.arange(size) * spacing for size, spacing in zip(slices.matrix, slices.spacing, strict=True)
    )
    plane = rows[:, None, None] * slices.row_step + columns[None, :, None] * slices.column_step
    return slices.positions[:, None, None, :] + plane


def scan_of(slices: Stack, patient: int = 0, noise_hu: float = 4.0, head_rest: bool = True) -> np.ndarray:
    """int16 (N, rows, columns) HU of a synthetic patient."""
    head = replace(draw_anatomy(0, patient), head_rest=head_rest)
    clean = head_hu(points_of(slices), head)
    noise = np.random.default_rng(patient).normal(0, noise_hu, clean.shape)
    return np.rint(clean + noise).astype(np.int16)


def stored(
    hu: np.ndarray, slices: Stack, spacing_mm: float = 2.0, margin_mm: float = 5.0
) -> tuple[Head, np.ndarray, Grid]:
    """The located head, the voxels as they would be stored, and their grid."""
    spacing = (spacing_mm,) * 3
    head = find_head(hu, slices, threshold=-500, anatomy=HEAD)
    target = head.box(spacing, margin_mm)
    return head, resample(hu, slices, target, AIR_HU), target
