"""How a predicted mask agrees with the true one: overlap, and distances between their surfaces in mm.

Distances are as MONAI's (`compute_hausdorff_distance` with percentile 95, `compute_average_surface_distance`
and `compute_surface_dice`, to which the tests hold them): a mask's surface is those of its voxels that have
a neighbour outside across a face, and a distance is from a surface voxel's centre to the nearest of the
other's.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_CROSS = ndimage.generate_binary_structure(3, 1)


class Agreement(NamedTuple):
    """Of one class in one volume; all but the last two are NaN where the truth is empty."""

    dice: float
    """2 |A ∩ B| / (|A| + |B|) (Dice 1945)."""
    hd95_mm: float
    """The greater of the two directed 95th percentiles (Huttenlocher et al. 1993)."""
    assd_mm: float
    """Mean over the voxels of both surfaces."""
    nsd: float
    """Share of both surfaces' voxels within the tolerance of the other (Nikolov et al. 2021)."""
    truth_ml: float
    predicted_ml: float


def agreement(
    truth: NDArray[np.bool_], predicted: NDArray[np.bool_], spacing_mm: Sequence[float], tolerance_mm: float
) -> Agreement:
    """Compare two masks, bool (D, H, W).

    Where the truth is empty no overlap or distance is defined, and what was predicted is a false alarm. Where
    only the prediction is, Dice and surface Dice are 0, and the distances are the volume's diagonal, for they
    would be infinite, and to leave them out would reward silence.
    """
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    sizes = int(truth.sum()), int(predicted.sum())
    ml = sizes[0] * voxel_ml, sizes[1] * voxel_ml
    if not sizes[0]:
        return Agreement(np.nan, np.nan, np.nan, np.nan, *ml)
    if not sizes[1]:
        diagonal = float(np.linalg.norm(np.multiply(truth.shape, spacing_mm)))
        return Agreement(0.0, diagonal, diagonal, 0.0, *ml)
    dice = 2 * int((truth & predicted).sum()) / sum(sizes)
    there, back = distances(truth, predicted, spacing_mm)
    both = np.concatenate([there, back])
    hd95 = max(float(np.percentile(there, 95)), float(np.percentile(back, 95)))
    return Agreement(dice, hd95, float(both.mean()), float((both <= tolerance_mm).mean()), *ml)


def distances(
    one: NDArray[np.bool_], other: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From each surface voxel of one to the other's surface, mm, and from the other's to one's."""
    (box,) = ndimage.find_objects((one | other).astype(np.int8))
    surfaces = [_surface(np.pad(mask[box], 1)) for mask in (one, other)]
    fields = [ndimage.distance_transform_edt(~surface, sampling=spacing_mm) for surface in surfaces]
    return fields[1][surfaces[0]], fields[0][surfaces[1]]


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(mask & ~ndimage.binary_erosion(mask, _CROSS))
