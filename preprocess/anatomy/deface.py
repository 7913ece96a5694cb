"""Defacing: blanking the soft tissue of the face, so that the surface does not identify the patient.

The brain is located as the largest soft object enclosed by bone in the upper part of the head; below it, neck
and shoulders may be larger. The face is the region with no brain in front of or below it; there, everything
but bone is blanked down to a depth under the skin. Like Quickshear (Schimke and Hale, USENIX HealthSec 2011),
which cuts along a plane under the brain, this requires no atlas and no registration; unlike Quickshear, it
keeps all bone.
"""

import numpy as np
from scipy import ndimage

from preprocess.anatomy.objects import largest_object
from preprocess.dicom.decode import AIR_HU
from preprocess.reasons import Reason, Rejection

COARSE_MM = 2.0
"""Voxel edge of the search for brain and face."""
TISSUE_HU = -500
"""Halfway between air and soft tissue."""
BONE_HU = 200
"""Above brain, blood (90) and muscle; thin bone between thick slices still reaches it."""
SOFT_HU = (-30, 130)
"""Brain, CSF with noise, and fresh blood; not the fat of the orbits."""
JOINT_MM = 5.0
"""Half the width of bridges between separate soft objects: foramina, and thin bone between slices."""
CORD_MM = 12.0
"""Half the width of the spinal canal and of larger leaks, which are not part of the brain's outline."""
MARGIN_MM = 4.0
"""Margin kept around the brain, two coarse voxels."""
UPPER_MM = 160.0
"""From the vertex to below the foramen magnum, which in a man is about 150 below it."""
BRAIN_ML = (250.0, 2500.0)
"""A term neonate's brain has over 300, an adult's skull up to 2000; a larger object includes others."""
MIN_WALLED = 0.5
"""Share of a brain with bone on three sides in its plane (a craniectomy opens one): 0.9 and more in an intact
skull, 0.1 for neck muscles."""
SIDEWAYS_MM = 10.0
"""How far to the side brain protects tissue behind or above it: less than half the width of an orbit."""
BROW_MM = 5.0
"""How far above the frontal pole the face begins."""
DEPTH_MM = 30.0
"""Blanking depth under the skin: the thickness of the cheeks, and more than the eyes' length of 24 mm."""


def deface(voxels: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """A copy of a volume without its face.

    voxels: int16 HU, (D, H, W) growing towards superior, anterior, right. Bone, brain, and everything above
    the brow or behind the brain's middle are unchanged; blanked voxels are `AIR_HU`.

    Raises Rejection(deface_failed) if no brain is found as a reference, or if the object found may not be
    the brain.
    """
    face = face_mask(voxels, spacing_mm)
    bone = voxels > BONE_HU
    # Dilated by a voxel, so that the partial-volume rims of bones keep their shape.
    face &= ~ndimage.binary_dilation(bone)
    return np.where(face, np.int16(AIR_HU), voxels)


def face_mask(voxels: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """bool (D, H, W): the face with the air in front of it, without bones and what they enclose."""
    steps = [max(1, round(COARSE_MM / spacing)) for spacing in spacing_mm]
    edges = np.array(spacing_mm) * steps
    coarse = _block_means(voxels, steps)
    dense = coarse > TISSUE_HU
    head = largest_object(dense, np.zeros_like(dense))
    brain, outline = _brain(coarse, head, edges)
    region = _anterior_or_inferior(outline, edges)
    near = _box(brain, np.ceil(MARGIN_MM / edges).astype(int))
    region[near] &= ndimage.distance_transform_edt(~brain[near], edges) > MARGIN_MM
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


def _brain(coarse: np.ndarray, head: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool: the soft object within bone, and its outline.

    The object includes parts joined by bridges wider than 2 `JOINT_MM`; the outline excludes parts joined by
    bridges narrower than 2 `CORD_MM`.
    """
    walled = _walled(head & (coarse > BONE_HU))
    vertex = np.flatnonzero(head.any(axis=(1, 2))).max(initial=0)
    upper = np.arange(len(head)) > vertex - UPPER_MM / edges[0]
    soft = head & (coarse > SOFT_HU[0]) & (coarse < SOFT_HU[1]) & upper[:, None, None]
    brain = _opened(soft, JOINT_MM, edges, walled)
    outline = _opened(brain, CORD_MM, edges, walled)
    volume_ml = brain.sum() * np.prod(edges) / 1000
    is_walled = all((mask & walled).sum() > MIN_WALLED * mask.sum() for mask in (brain, outline))
    if not (BRAIN_ML[0] <= volume_ml <= BRAIN_ML[1] and is_walled):
        raise Rejection(Reason.DEFACE_FAILED, "no brain found, so the face cannot be located")
    return brain, outline


def _walled(bone: np.ndarray) -> np.ndarray:
    """bool: bone on at least three sides of front, back, left and right."""
    sides = np.zeros(bone.shape, np.uint8)
    for axis in (1, 2):
        sides += np.maximum.accumulate(bone, axis)
        sides += np.flip(np.maximum.accumulate(np.flip(bone, axis), axis), axis)
    return sides >= 3


def _opened(mask: np.ndarray, radius_mm: float, edges: np.ndarray, within: np.ndarray) -> np.ndarray:
    """The part of `mask` that a ball of `radius_mm` fits into; of several, the one mostly `within`."""
    opened = np.zeros_like(mask)
    if not mask.any():
        return opened
    box = _box(mask, 1)  # beyond it, no distance is used, and the nearest background is never there
    labels, count = ndimage.label(ndimage.distance_transform_edt(mask[box], edges) > radius_mm)
    if count:
        core = labels == 1 + np.bincount(labels[within[box]], minlength=count + 1)[1:].argmax()
        near = ndimage.distance_transform_edt(~core, edges) <= radius_mm + edges.max()
        opened[box] = mask[box] & near
    return opened


def _box(mask: np.ndarray, margin: int | np.ndarray) -> tuple[slice, ...]:
    """The smallest box with all of a mask that is not empty, and a margin in voxels within the volume."""
    (found,) = ndimage.find_objects(mask.view(np.uint8))
    margins = np.broadcast_to(margin, mask.ndim).tolist()
    return tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(found, margins, strict=True))


def _anterior_or_inferior(brain: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """bool: below the brow, in front of the brain's middle, with no brain farther forward or down."""
    heights, forward = np.argwhere(brain.any(axis=2)).T
    sideways = 2 * round(SIDEWAYS_MM / edges[2]) + 1
    shadow = ndimage.maximum_filter1d(brain, sideways, axis=2)
    shadow = np.maximum.accumulate(shadow, axis=0)
    shadow = np.maximum.accumulate(shadow[:, ::-1], axis=1)[:, ::-1]
    brow = heights[forward.argmax()] + BROW_MM / edges[0]
    middle = (forward.min() + forward.max()) / 2
    d, h = (np.arange(size) for size in brain.shape[:2])
    return ~shadow & (d < brow)[:, None, None] & (h > middle)[None, :, None]
