"""True masks of a synthetic head's bleeds, as painted by `preprocess.demo.lesions`."""

from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from preprocess.demo import anatomy, brain
from preprocess.demo.head import Head
from preprocess.demo.lesions import Bleed, blood_share
from preprocess.demo.shapes import some

STEP_MM = 2.0
"""Voxel edge of the files: finer than the slices of all series of the export."""
HALF_MM = (84.0, 108.0, 84.0)
"""Half of the files' extent along left, posterior, superior, about the head's centre: the skull's inside."""
MIN_SHARE = 0.5
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def lesion_masks(points_lps: NDArray[np.float64], head: Head) -> dict[Bleed, NDArray[np.bool_]]:
    """For each kind of bleed of the head, the points that hold its blood (not its oedema).

    points_lps: (..., 3), patient LPS mm; the masks are (...). A point is inside if at least half of the
    painted value is that blood. Kinds may overlap.
    """
    points = np.asarray(points_lps, np.float64).reshape(-1, 3)
    shape = np.shape(points_lps)[:-1]
    masks = {lesion.kind: np.zeros(len(points), np.bool_) for lesion in head.lesions}
    whole = head.local(points)
    inside = np.flatnonzero(anatomy.skin_depth(whole) > 0)
    at = some(whole, inside)
    depth = anatomy.cavity_depth(at, head)
    within = np.flatnonzero(depth > 0)
    at, depth = some(at, within), depth[within]
    _, fluid = brain.brain_hu(at, depth, head)
    for lesion in head.lesions:
        blood = blood_share(at, depth, fluid, lesion) >= MIN_SHARE
        masks[lesion.kind][inside[within[blood]]] = True
    return {kind: mask.reshape(shape) for kind, mask in masks.items()}


def write_masks(folder: Path, name: str, head: Head) -> dict[str, str]:
    """A NIfTI file of each kind of bleed in `folder`, uint8, in the patient's frame; names by the kind."""
    if not head.lesions:
        return {}
    # Multiples of the step, exact in the header's float32.
    first = np.rint((np.asarray(head.origin) - HALF_MM) / STEP_MM) * STEP_MM
    steps = [np.arange(int(2 * half / STEP_MM) + 1) * STEP_MM for half in HALF_MM]
    points = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1) + first
    affine = np.diag([STEP_MM, STEP_MM, STEP_MM, 1.0])
    affine[:3, 3] = first
    written = {}
    for kind, mask in lesion_masks(points, head).items():
        image = nibabel.Nifti1Image(mask.astype(np.uint8), None)
        image.set_qform(_RAS_FROM_LPS @ affine, 1)
        image.set_sform(_RAS_FROM_LPS @ affine, 1)
        image.header.set_xyzt_units("mm")
        folder.mkdir(parents=True, exist_ok=True)
        written[kind.value] = f"{name}-{kind.value}.nii.gz"
        nibabel.save(image, folder / written[kind.value])
    return written
