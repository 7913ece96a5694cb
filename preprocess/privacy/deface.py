"""Defacing: blanking the soft tissue of the face, so that no surface shows whose head it is.

The brain is found as the largest soft object within bone. What has no brain before or beneath it is the
face; there everything that is not bone is blanked down to a depth under the skin. Like Quickshear
(Schimke and Hale, USENIX HealthSec 2011), which cuts along a plane under the brain, this needs no atlas
and no registration; unlike it, bone is kept wherever it lies.
"""

import numpy as np
from scipy import ndimage

from preprocess.dicom.decode import AIR_HU
from preprocess.reasons import Reason, Rejection
from preprocess.volume.crop import largest_object

COARSE_MM = 2.0
"""Voxel edge at which brain and face are looked for."""
TISSUE_HU = -500
"""Half-way between air and soft tissue."""
BONE_HU = 200
"""Above brain, blood (90) and muscle; thin bone between thick slices still reaches it."""
SOFT_HU = (-30, 130)
"""Brain, its fluid with noise, and fresh blood; not the fat of the orbits."""
JOINT_MM = 5.0
"""Half the width of what joins two soft objects without being one: foramina, and thin bone between slices."""
CORD_MM = 12.0
"""Half the width of the spinal canal, and of greater leaks: they are no part of the brain's outline."""
MARGIN_MM = 4.0
"""Kept about the brain itself, two coarse voxels."""
LEAST_BRAIN_ML = 250.0
"""A term neonate's brain has over 300 ml."""
SIDEWAYS_MM = 10.0
"""How far to the side brain shields what lies behind or above it: less than the half width of an orbit."""
BROW_MM = 5.0
"""How far above the height of the frontal pole the face begins."""
DEPTH_MM = 30.0
"""Blanked under the skin: the cheeks' thickness, and more than the eyes' length of 24 mm."""


def deface(voxels: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """A copy of a volume without its face.

    voxels: int16 HU, (D, H, W) growing towards superior, anterior, right. Bone, brain, and what lies above
    the brow or behind the brain's middle, stay as they are; blanked voxels are `AIR_HU`.

    Raises Rejection(deface_failed) where no brain is found to go by.
    """
    face = face_mask(voxels, spacing_mm)
    bone = voxels > BONE_HU
    # A voxel on, so that the rims of bones, which are partly something else, keep their shape.
    face &= ~ndimage.binary_dilation(bone)
    return np.where(face, np.int16(AIR_HU), voxels)


def face_mask(voxels: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """bool (D, H, W): the face with the air before it, bones and what they enclose left out."""
    steps = [max(1, round(COARSE_MM / spacing)) for spacing in spacing_mm]
    edges = np.array(spacing_mm) * steps
    coarse = _block_means(voxels, steps)
    dense = coarse > TISSUE_HU
    head = largest_object(dense, np.zeros_like(dense))
    brain = _brain(coarse, head, edges)
    region = _before_and_beneath(_opened(brain, CORD_MM, edges), edges)
    region &= ndimage.distance_transform_edt(~brain, edges) > MARGIN_MM
    region &= ndimage.distance_transform_edt(head, edges) <= DEPTH_MM
    region &= ~ndimage.binary_closing(coarse > BONE_HU)
    for axis, step in enumerate(steps):
        region = np.repeat(region, step, axis)
    return region[tuple(map(slice, voxels.shape))]


def _block_means(voxels: np.ndarray, steps: list[int]) -> np.ndarray:
    """float32 means of blocks of `steps` voxels; the last ones repeat the volume's edge."""
    short = [(0, -size % step) for size, step in zip(voxels.shape, steps, strict=True)]
    padded = np.pad(voxels, short, mode="edge")
    blocked = [part for size, step in zip(padded.shape, steps, strict=True) for part in (size // step, step)]
    return padded.reshape(blocked).mean(axis=(1, 3, 5), dtype=np.float32)


def _brain(coarse: np.ndarray, head: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """bool: the largest soft object of the head, with what hangs on to it by more than 2 `JOINT_MM`."""
    soft = head & (coarse > SOFT_HU[0]) & (coarse < SOFT_HU[1])
    brain = _opened(soft, JOINT_MM, edges)
    if brain.sum() * np.prod(edges) / 1000 < LEAST_BRAIN_ML:
        raise Rejection(Reason.DEFACE_FAILED, "no brain is found that tells where the face is")
    return brain


def _opened(mask: np.ndarray, radius_mm: float, edges: np.ndarray) -> np.ndarray:
    """The largest part of `mask` into which a ball of `radius_mm` fits."""
    labels, count = ndimage.label(ndimage.distance_transform_edt(mask, edges) > radius_mm)
    if not count:
        return np.zeros_like(mask)
    core = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
    return mask & (ndimage.distance_transform_edt(~core, edges) <= radius_mm + edges.max())


def _before_and_beneath(brain: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """bool: below the brow, before the brain's middle, with no brain farther forward or farther down."""
    heights, forward = np.argwhere(brain.any(axis=2)).T
    sideways = 2 * round(SIDEWAYS_MM / edges[2]) + 1
    shadow = ndimage.maximum_filter1d(brain, sideways, axis=2)
    shadow = np.maximum.accumulate(shadow, axis=0)
    shadow = np.maximum.accumulate(shadow[:, ::-1], axis=1)[:, ::-1]
    brow = heights[forward.argmax()] + BROW_MM / edges[0]
    middle = (forward.min() + forward.max()) / 2
    d, h = (np.arange(size) for size in brain.shape[:2])
    return ~shadow & (d < brow)[:, None, None] & (h > middle)[None, :, None]
