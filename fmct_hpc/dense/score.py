"""Conversion of a head's cells to masks on the volumes' grids, and scoring of these masks."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.dense.cohort import Cohort
from fmct_hpc.dense.field import Cells
from fmct_hpc.dense.surface import agreement

THRESHOLDS = np.linspace(0.05, 0.95, 19)
FloatArray = NDArray[np.float64]
OfCells = Callable[[int], NDArray[np.float32]]
"""Maps a volume's row to the probabilities of its cells, (C, D, H, W)."""


def thresholds(
    predict: OfCells, cells: tuple[Cells, ...], cohort: Cohort, rows: NDArray[np.int64]
) -> tuple[FloatArray, NDArray[np.int64]]:
    """For each class, the threshold of maximum mean Dice, and the number of volumes used: (C,) each.

    The volumes are those of `rows` with the class. Ties are resolved to the highest threshold; NaN without
    any volume. Dice at all thresholds is computed from two histograms of the probabilities, of all voxels and
    of those inside the mask.
    """
    classes = len(cohort.classes)
    sums, counts = np.zeros((classes, len(THRESHOLDS))), np.zeros(classes, np.int64)
    for row in rows.tolist():
        truth = cohort.truth(row)
        probabilities = cells[row].probabilities(predict(row))
        for number in range(classes):
            size = int(truth[number].sum())
            if size:
                all_above, true_above = (
                    _above(values)
                    for values in (probabilities[number].ravel(), probabilities[number][truth[number]])
                )
                sums[number] += 2 * true_above / np.maximum(all_above + size, 1)
                counts[number] += 1
    best = len(THRESHOLDS) - 1 - np.argmax(sums[:, ::-1], axis=1)
    return np.where(counts > 0, THRESHOLDS[best], np.nan), counts


def _above(probabilities: NDArray[np.float32]) -> FloatArray:
    """Number of probabilities at or above each threshold."""
    bins = np.searchsorted(THRESHOLDS.astype(np.float32), probabilities, side="right")
    counts = np.bincount(bins, minlength=len(THRESHOLDS) + 1)
    return counts[::-1].cumsum()[::-1][1:].astype(np.float64)


def predicted(predict: OfCells, cells: tuple[Cells, ...], row: int, at: FloatArray) -> NDArray[np.bool_]:
    """The masks (C, D, H, W) of a volume at thresholds (C,)."""
    probabilities = cells[row].probabilities(predict(row))
    return np.asarray(probabilities >= at.astype(np.float32)[:, None, None, None])


def scored(
    predict: OfCells,
    cells: tuple[Cells, ...],
    cohort: Cohort,
    rows: NDArray[np.int64],
    at: FloatArray,
    tolerance_mm: float,
) -> list[dict[str, Any]]:
    """One row per volume and class: key, class, `Agreement` and `dice_ceiling`.

    `dice_ceiling`: Dice of the cells' true shares, interpolated as the output of a head and thresholded at
    0.5. Classes without a threshold are left out.
    """
    scores: list[dict[str, Any]] = []
    for row in rows.tolist():
        truth = cohort.truth(row)
        masks = predicted(predict, cells, row, at)
        ceiling = cells[row].probabilities(cells[row].shares(truth)) >= 0.5
        for number, name in enumerate(cohort.classes):
            if np.isnan(at[number]):
                continue
            spacing = cohort.volumes.info.spacing_mm
            own = agreement(truth[number], masks[number], spacing, tolerance_mm)
            sizes = int(truth[number].sum()) + int(ceiling[number].sum())
            common = int((truth[number] & ceiling[number]).sum())
            best = 2 * common / sizes if own.truth_ml else np.nan
            scores.append(
                {"key": str(cohort.keys[row]), "class": name, **own._asdict(), "dice_ceiling": best}
            )
    return scores
