"""The slice positions of an array with an affine."""

import numpy as np

from preprocess.dicom.geometry import UNIT_LENGTH, Stack
from preprocess.reasons import Reason, Rejection


def stack_of(affine: np.ndarray, shape: tuple[int, ...]) -> Stack:
    """The geometry of slices in the array's order; their heights may descend.

    affine: (4, 4), (slice, row, column, 1) to patient LPS mm; shape: slices, rows, columns. Raises
    Rejection(invalid_geometry) if it is not a stack of slices.
    """
    step, down, across = np.asarray(affine, np.float64)[:3, :3].T
    lengths = np.linalg.norm([step, down, across], axis=1)
    if not np.isfinite(affine).all() or min(lengths) < 1e-6:
        raise Rejection(Reason.INVALID_GEOMETRY, "the affine has no extent along an axis")
    row_step, column_step = down / lengths[1], across / lengths[2]
    normal = np.cross(column_step, row_step)
    if abs(row_step @ column_step) > UNIT_LENGTH or abs(step @ normal) < UNIT_LENGTH * lengths[0]:
        raise Rejection(Reason.INVALID_GEOMETRY, "rows and columns are not perpendicular")
    normal /= np.linalg.norm(normal)
    positions = affine[:3, 3] + np.arange(shape[0])[:, None] * step
    return Stack(
        column_step=column_step,
        row_step=np.cross(normal, column_step),
        normal=normal,
        positions=positions,
        heights=positions @ normal,
        spacing=(float(lengths[1]), float(lengths[2])),
        matrix=(shape[1], shape[2]),
    )
