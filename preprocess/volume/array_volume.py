"""From an array of HU with an affine to one volume, by the same rules and resampler as a series."""

import hashlib
from dataclasses import replace

import numpy as np

from preprocess.config import GridConfig
from preprocess.dicom.decode import source_digest
from preprocess.reasons import Reason, Rejection
from preprocess.select.rules import SelectConfig
from preprocess.select.series import require_stack
from preprocess.volume.build import Volume, to_grid
from preprocess.volume.hounsfield import require_defined, to_hu
from preprocess.volume.slice_positions import stack_of
from shards.schema import DecodeFacts


def array_volume(
    values: np.ndarray, affine: np.ndarray, slice_axis: int, grid: GridConfig, select: SelectConfig
) -> Volume:
    """Treat the array as a stack of slices, resample it to `grid` and crop it to the head.

    values: HU (three axes, any number type); affine: (4, 4), the array's index to patient LPS mm;
    slice_axis: the through-plane axis, along which `select` judges gaps and coverage. Rules of `select` for
    header texts do not apply. Raises Rejection if it is not a head CT.
    """
    if values.ndim != 3 or min(values.shape) < 2 or affine.shape != (4, 4):
        raise Rejection(
            Reason.INVALID_GEOMETRY,
            f"an array of shape {values.shape}, an affine of {affine.shape}: expected three axes and (4, 4)",
        )
    order = (0, 1, 2) if slice_axis == 0 else (2, 1, 0)
    values = values.transpose(order)
    slices = stack_of(np.asarray(affine)[:, [*order, 3]], values.shape)
    if values.dtype.kind == "f":
        require_defined(values)
    hu = to_hu(values)
    if slices.heights[0] > slices.heights[-1]:
        # Reversed, so that slices ascend along the normal.
        slices = replace(slices, positions=slices.positions[::-1], heights=slices.heights[::-1])
        hu = hu[::-1]
    hu = np.ascontiguousarray(hu)
    if max(slices.spacing) > select.max_slice_gap_mm:
        raise Rejection(Reason.SLICE_GAP, f"pixels of {max(slices.spacing):.2f} mm")
    require_stack(slices, select)
    voxels, target, measures = to_grid(hu, slices, grid, select.profile)
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
