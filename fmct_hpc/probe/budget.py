"""Training, validation and test volumes of a cohort for a label budget.

All draws are functions of the patient's key and do not change when the cohort grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.reasons import Reason, TooFewError
from fmct_hpc.probe.splits import patient_draws
from fmct_hpc.probe.statistics.scored import IntArray


class Budget(NamedTuple):
    """The number of labels for training; exactly one field is None."""

    fraction: float | None
    shots: int | None


@dataclass(frozen=True)
class Parts:
    """Rows of volumes, split by patient; `tests` maps the name of a test set to its rows."""

    train: IntArray
    validation: IntArray
    tests: dict[str, IntArray]


def folds_of(patient_keys: NDArray[np.str_], strata: IntArray, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each volume's patient, (N,); the patients of each stratum are distributed evenly.

    strata: (N,) from 0; for a binary label, 1 where positive. A patient has its volumes' highest stratum.
    """
    _, first, inverse = np.unique(patient_keys, return_index=True, return_inverse=True)
    stratum = np.zeros(len(first), dtype=np.int64)
    np.maximum.at(stratum, inverse, strata)
    draws = patient_draws(patient_keys, seed, "fold")[first]
    place = np.empty(len(first), dtype=np.int64)
    place[np.lexsort((draws, -stratum))] = np.arange(len(first))
    return (place % folds)[inverse]


def rotations(folds: NDArray[np.int64], count: int) -> list[Parts]:
    """For each fold: that fold as the test set, the next one for validation, the rest for training."""
    return [
        Parts(
            np.flatnonzero((folds != fold) & (folds != (fold + 1) % count)),
            np.flatnonzero(folds == (fold + 1) % count),
            {"id": np.flatnonzero(folds == fold)},
        )
        for fold in range(count)
    ]


def thin(
    parts: Parts,
    patient_keys: NDArray[np.str_],
    strata: IntArray,
    names: Sequence[str],
    budget: Budget,
    seed: int,
) -> Parts:
    """Reduce training and validation patients to the label budget, class by class.

    strata: (N,) from 0, the classes in `names`; a patient has its volumes' highest stratum, so a patient with
    a positive volume counts as positive. The patients of a smaller budget are a subset of those of a larger
    one. Validation keeps the same share of its patients as training, at least one per class, since its labels
    belong to the budget too. Raises TooFewError if training has too few patients or lacks a class, and if
    there are no validation patients.
    """
    classes = [
        _by_class(rows, patient_keys, strata, len(names), seed) for rows in (parts.train, parts.validation)
    ]
    kept: tuple[list[str], list[str]] = ([], [])
    for number, name in enumerate(names):
        available, for_validation = classes[0][number], classes[1][number]
        wanted = budget.shots or max(1, round((budget.fraction or 0) * len(available)))
        if len(available) < wanted:
            lack = f"{len(available)} {name} training patients, {wanted} required"
            raise TooFewError(Reason.FEW_TRAINING, lack)
        kept[0].extend(available[:wanted])
        share = wanted / len(available)
        kept[1].extend(for_validation[: max(1, round(share * len(for_validation)))])
    if not kept[1]:
        raise TooFewError(Reason.NO_VALIDATION, "no validation patients")
    train, validation = (
        rows[np.isin(patient_keys[rows], patients)]
        for rows, patients in zip((parts.train, parts.validation), kept, strict=True)
    )
    return Parts(train, validation, parts.tests)


def _by_class(
    rows: IntArray, patient_keys: NDArray[np.str_], strata: IntArray, count: int, seed: int
) -> list[list[str]]:
    """Keys of the rows' patients for each stratum, in the order of their draws."""
    keys = patient_keys[rows]
    patients, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(patient_draws(keys, seed, "budget")[first], kind="stable")
    stratum = np.zeros(len(first), dtype=np.int64)
    np.maximum.at(stratum, inverse, strata[rows])
    return [patients[order][stratum[order] == number].tolist() for number in range(count)]
