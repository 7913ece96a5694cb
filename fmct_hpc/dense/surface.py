"""Agreement of a predicted mask with the truth: overlap, and distances between the surfaces in mm.

Distances are those of MONAI (`compute_hausdorff_distance` with percentile 95,
`compute_average_surface_distance` and `compute_surface_dice`, against which they are tested). The surface of
a mask are its voxels with a face neighbour outside of the mask; a distance is from the centre of a surface
voxel to the nearest centre of the other surface.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_CROSS = ndimage.generate_binary_structure(3, 1)


class Agreement(NamedTuple):
    """Agreement for one class in one volume; all but the last two are NaN if the truth is empty."""

    dice: float
    """2 |A ∩ B| / (|A| + |B|) (Dice 1945)."""
    hd95_mm: float
    """The larger of the two directed 95th percentiles (Huttenlocher et al. 1993)."""
    assd_mm: float
    """Mean over the voxels of both surfaces."""
    nsd: float
    """Share of both surfaces' voxels within the tolerance of the other surface (Nikolov et al. 2021)."""
    truth_ml: float
    predicted_ml: float


def agreement(
    truth: NDArray[np.bool_], predicted: NDArray[np.bool_], spacing_mm: Sequence[float], tolerance_mm: float
) -> Agreement:
    """Compare two masks, bool (D, H, W).

    If the truth is empty, overlap and distances are not defined, and any prediction is a false alarm. If only
    the prediction is empty, Dice and surface Dice are 0, and the distances, which would be infinite, are the
    volume's diagonal; leaving them out would favour empty predictions.
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
    forward, backward = distances(truth, predicted, spacing_mm)
    both = np.concatenate([forward, backward])
    hd95 = max(float(np.percentile(forward, 95)), float(np.percentile(backward, 95)))
    return Agreement(dice, hd95, float(both.mean()), float((both <= tolerance_mm).mean()), *ml)


def distances(
    one: NDArray[np.bool_], other: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances in mm from each surface voxel of `one` to the surface of `other`, and vice versa."""
    (box,) = ndimage.find_objects((one | other).astype(np.int8))
    surfaces = [_surface(np.pad(mask[box], 1)) for mask in (one, other)]
    fields = [ndimage.distance_transform_edt(~surface, sampling=spacing_mm) for surface in surfaces]
    return fields[1][surfaces[0]], fields[0][surfaces[1]]


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(mask & ~ndimage.binary_erosion(mask, _CROSS))
