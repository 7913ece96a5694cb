"""From an array of HU with an affine to one volume, by the same rules and the same resampler as a series."""

import hashlib
from dataclasses import replace

import numpy as np
from scipy import ndimage

from preprocess.config import GridConfig, SelectConfig
from preprocess.dicom.decode import AIR_HU, LEAST_HU, source_digest
from preprocess.dicom.geometry import UNIT_LENGTH, Stack
from preprocess.reasons import Reason, Rejection
from preprocess.select.series import require_stack
from preprocess.volume.build import Volume, to_grid
from shards.schema import DecodeFacts

_LIMITS = np.iinfo(np.int16)


def array_volume(
    values: np.ndarray, affine: np.ndarray, slice_axis: int, grid: GridConfig, select: SelectConfig
) -> Volume:
    """Take the array for a stack of slices, resample it to `grid` and crop it to the head.

    values: HU (three axes, any number type); affine: (4, 4), the array's index to patient LPS mm;
    slice_axis: the axis from slice to slice, along which `select` judges gaps and coverage. What it says of
    header texts has no influence: there are none. Raises Rejection where that is no head CT.
    """
    if values.ndim != 3 or min(values.shape) < 2 or affine.shape != (4, 4):
        raise Rejection(
            Reason.INVALID_GEOMETRY,
            f"an array of shape {values.shape}, an affine of {affine.shape}: expected three axes and (4, 4)",
        )
    order = (0, 1, 2) if slice_axis == 0 else (2, 1, 0)
    slices = _stack(affine, order, values.shape)
    hu = _hu(values).transpose(order)
    if slices.heights[0] > slices.heights[-1]:
        # From the other end, so that slices ascend along the normal.
        slices = replace(slices, positions=slices.positions[::-1], heights=slices.heights[::-1])
        hu = hu[::-1]
    hu = np.ascontiguousarray(hu)
    if max(slices.spacing) > select.max_slice_gap_mm:
        raise Rejection(Reason.SLICE_GAP, f"pixels of {max(slices.spacing):.2f} mm")
    require_stack(slices, select)
    voxels, target, measures = to_grid(hu, slices, grid)
    gaps = slices.gaps
    return Volume(
        voxels=voxels,
        affine=target.affine,
        facts=DecodeFacts(
            kernel_class="unknown",
            kvp=None,
            slice_thickness_mm=None,
            gantry_tilt_deg=slices.tilt_deg,
            slices=len(hu),
            slice_gap_mm=(float(gaps.min()), float(gaps.max())),
            matrix=slices.matrix,
            pixel_spacing_mm=slices.spacing,
            manufacturer="other",
            transfer_syntax="",
        ),
        source_digest=source_digest(
            [hashlib.sha256(one.tobytes()).digest() for one in hu],
            slices.positions,
            slices.column_step.tolist(),
            slices.row_step.tolist(),
            slices.spacing,
        ),
        measures=measures,
        dropped=(),
    )


def _stack(affine: np.ndarray, order: tuple[int, int, int], shape: tuple[int, ...]) -> Stack:
    """The slices' geometry; order: the array's axes for slice, row and column."""
    step, down, across = (np.asarray(affine, np.float64)[:3, axis] for axis in order)
    lengths = np.linalg.norm([step, down, across], axis=1)
    if not np.isfinite(affine).all() or min(lengths) < 1e-6:
        raise Rejection(Reason.INVALID_GEOMETRY, "the affine has no extent along an axis")
    row_step, column_step = down / lengths[1], across / lengths[2]
    normal = np.cross(column_step, row_step)
    if abs(row_step @ column_step) > UNIT_LENGTH or abs(step @ normal) < UNIT_LENGTH * lengths[0]:
        raise Rejection(Reason.INVALID_GEOMETRY, "rows and columns are not perpendicular")
    normal /= np.linalg.norm(normal)
    positions = affine[:3, 3] + np.arange(shape[order[0]])[:, None] * step
    return Stack(
        column_step=column_step,
        row_step=np.cross(normal, column_step),
        normal=normal,
        positions=positions,
        heights=positions @ normal,
        spacing=(float(lengths[1]), float(lengths[2])),
        matrix=(shape[order[1]], shape[order[2]]),
    )


def _hu(values: np.ndarray) -> np.ndarray:
    """Rounded int16; what lies below the scanners' codes for outside the circle is air, as in decoding."""
    if values.dtype.kind not in "iuf":
        raise Rejection(Reason.NOT_HOUNSFIELD, f"values of type {values.dtype}: expected numbers, HU")
    outside = _not_measured(values)
    hu = np.rint(np.clip(np.where(outside, AIR_HU, values), _LIMITS.min, _LIMITS.max)).astype(np.int16)
    hu[hu < LEAST_HU] = AIR_HU
    return hu


def _not_measured(values: np.ndarray) -> np.ndarray:
    """Where NaN stand for air, bool of the values' shape: resamplers write them outside the field of view.

    Raises Rejection(not_hounsfield) for NaN that the field's edge does not reach, which are holes in the
    patient, and for infinite values.
    """
    missing = ~np.isfinite(values)
    if not missing.any():
        return missing
    patches, count = ndimage.label(missing)
    edges = [patches.take(end, axis) for axis in range(values.ndim) for end in (0, -1)]
    inside = count - np.unique(np.concatenate([edge[edge > 0] for edge in edges])).size
    if inside or np.isinf(values).any():
        detail = f"{missing.sum()} values are no finite numbers, {inside} patches of them inside the field"
        raise Rejection(Reason.NOT_HOUNSFIELD, f"{detail}: fill them with HU")
    return missing
