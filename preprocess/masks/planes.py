"""A mask as slices with their positions in the patient, independent of the file format."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from preprocess.dicom.geometry import REGULAR_GAP, SAME_POSITION_MM, Stack
from preprocess.reasons import Reason, Rejection
from preprocess.volume.slice_positions import stack_of


@dataclass(frozen=True)
class Planes:
    """Parallel slices in geometric order; the mask is empty beyond the outermost."""

    bits: NDArray[np.int16]
    """(N, rows, columns), bit k inside class k (shards.masks)."""
    slices: Stack


def array_planes(bits: NDArray[np.int16], affine: NDArray[np.float64]) -> Planes:
    """Planes of an array, int16 (slice, row, column); affine: (4, 4), that index to patient LPS mm.

    Raises Rejection(invalid_geometry) if it is not a stack of slices.
    """
    slices = stack_of(affine, bits.shape)
    if slices.heights[0] > slices.heights[-1]:
        slices = replace(slices, positions=slices.positions[::-1], heights=slices.heights[::-1])
        bits = bits[::-1]
    return padded(np.ascontiguousarray(bits), slices, np.asarray(affine, np.float64)[:3, 0])


def padded(bits: NDArray[np.int16], slices: Stack, step: NDArray[np.float64]) -> Planes:
    """Planes with empty ones beyond both ends and in gaps of empty slices that were not stored.

    bits, slices: N ≥ 1 slices in order. step: from a slice to the next (either way), LPS mm. A gap wider than
    a step has missing slices; a Segmentation may omit empty ones (PS3.3 C.8.20.2). An empty slice is added
    one step from each neighbour of the gap.
    """
    step = step * np.sign(step @ slices.normal)
    gap = float(step @ slices.normal)
    if gap < SAME_POSITION_MM:
        raise Rejection(Reason.INVALID_GEOMETRY, "slices at one position, or no distance between them")
    places, stored = [slices.positions[0] - step], [-1]
    for number, position in enumerate(slices.positions):
        if number and slices.heights[number] - slices.heights[number - 1] > (1 + REGULAR_GAP) * gap:
            after, before = slices.positions[number - 1] + step, position - step
            places.append(after)
            if float((before - after) @ slices.normal) > SAME_POSITION_MM:
                places.append(before)
            stored += [-1] * (len(places) - len(stored))
        places.append(position)
        stored.append(number)
    places.append(slices.positions[-1] + step)
    stored.append(-1)
    whole = np.zeros((len(places), *bits.shape[1:]), np.int16)
    for place, own in enumerate(stored):
        if own >= 0:
            whole[place] = bits[own]
    at = np.array(places)
    return Planes(whole, replace(slices, positions=at, heights=at @ slices.normal))
