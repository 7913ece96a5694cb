"""Which volumes of a cohort a probe learns from, chooses by, and is tested on, for a label budget.

Whatever is drawn here is a function of a patient's key, so that it stays when the cohort grows.
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
    """How many labels there are to learn from: one of the two is None."""

    fraction: float | None
    shots: int | None


@dataclass(frozen=True)
class Parts:
    """Rows of volumes, patients whole; `tests` by the name of the test set."""

    train: IntArray
    validation: IntArray
    tests: dict[str, IntArray]


def folds_of(patient_keys: NDArray[np.str_], strata: IntArray, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each volume's patient, (N,): those of each stratum are dealt evenly.

    strata: (N,) from 0; of a label that is there or not, 1 where it is. A patient is of the greatest.
    """
    _, first, inverse = np.unique(patient_keys, return_index=True, return_inverse=True)
    stratum = np.zeros(len(first), dtype=np.int64)
    np.maximum.at(stratum, inverse, strata)
    draws = patient_draws(patient_keys, seed, "fold")[first]
    place = np.empty(len(first), dtype=np.int64)
    place[np.lexsort((draws, -stratum))] = np.arange(len(first))
    return (place % folds)[inverse]


def rotations(folds: NDArray[np.int64], count: int) -> list[Parts]:
    """Each fold in turn to test on, the next to choose by, the rest to learn from."""
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
    """Parts with as many training and validation patients as the budget has labels of, class by class.

    strata: (N,) from 0, the classes that `names` names; a patient is of the greatest of its volumes', so
    that one with a positive volume counts as positive. The patients of a smaller budget are among those
    of a greater one. Validation keeps the same share of its patients as training, at least one of a class:
    its labels too must come from somewhere. Raises TooFewError where training lacks the shots, or a
    class, and where there is no validation.
    """
    classes = [
        _by_class(rows, patient_keys, strata, len(names), seed) for rows in (parts.train, parts.validation)
    ]
    kept: tuple[list[str], list[str]] = ([], [])
    for number, name in enumerate(names):
        available, to_choose_by = classes[0][number], classes[1][number]
        wanted = budget.shots or max(1, round((budget.fraction or 0) * len(available)))
        if len(available) < wanted:
            lack = f"{len(available)} {name} training patients, {wanted} are needed"
            raise TooFewError(Reason.FEW_TRAINING, lack)
        kept[0].extend(available[:wanted])
        share = wanted / len(available)
        kept[1].extend(to_choose_by[: max(1, round(share * len(to_choose_by)))])
    if not kept[1]:
        raise TooFewError(Reason.NO_VALIDATION, "no validation patients to choose by")
    train, validation = (
        rows[np.isin(patient_keys[rows], patients)]
        for rows, patients in zip((parts.train, parts.validation), kept, strict=True)
    )
    return Parts(train, validation, parts.tests)


def _by_class(
    rows: IntArray, patient_keys: NDArray[np.str_], strata: IntArray, count: int, seed: int
) -> list[list[str]]:
    """Keys of the rows' patients, stratum by stratum, each in the order they are drawn in."""
    keys = patient_keys[rows]
    patients, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(patient_draws(keys, seed, "budget")[first], kind="stable")
    stratum = np.zeros(len(first), dtype=np.int64)
    np.maximum.at(stratum, inverse, strata[rows])
    return [patients[order][stratum[order] == number].tolist() for number in range(count)]
