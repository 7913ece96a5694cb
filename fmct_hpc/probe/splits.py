"""Splits of patients into training, validation and test."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from fmct_hpc.fields import Fraction, Seed
from shards.errors import FmctError
from shards.section import Section


class SplitConfig(Section):
    """Shares of the patients; ignored if `parts` or the labels' column `split` give the splits."""

    test: Fraction = 0.3
    """Enough patients for narrow intervals, with most of them left for training."""
    validation: Fraction = 0.1
    """For the choice of regularisation and step."""
    seed: Seed = 0

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> "SplitConfig":
        if self.test + self.validation >= 1:
            raise ValueError("test + validation must be below 1, to leave patients for training")
        return self


def patient_draws(patient_keys: NDArray[np.str_], seed: int, purpose: str) -> NDArray[np.float64]:
    """A number in [0, 1) for each patient, which depends on no other patients and not on the order.

    The first 53 bits of SHA-256 of purpose, seed and key. The patients below a fraction f are a sample of
    about that share, and the sample of a smaller f is a subset of that of a larger f.
    """
    patients, inverse = np.unique(patient_keys, return_inverse=True)
    digests = [hashlib.sha256(f"{purpose} {seed} {key}".encode()).digest() for key in patients.tolist()]
    draws = np.array([int.from_bytes(digest[:8]) >> 11 for digest in digests], dtype=np.float64) / 2**53
    return draws[inverse]


def hashed_splits(patient_keys: NDArray[np.str_], config: SplitConfig) -> NDArray[np.str_]:
    """The split of each volume's patient, (N,), names from `shards.split_names.SPLITS`.

    A function of the patient's key only, so that splits do not change when volumes are added or removed.
    """
    draws = patient_draws(patient_keys, config.seed, "split")
    chosen = np.where(draws < config.test, "test", "train")
    return np.where((draws >= config.test) & (draws < config.test + config.validation), "validation", chosen)


def require_no_folds(split_file: Path, folds: int | None) -> None:
    """Raise FmctError if `folds` is given although labels or parts (`split_file`) give splits."""
    if folds is not None:
        raise FmctError(
            f"{split_file}: its column split conflicts with folds={folds}; set folds=null, or remove the "
            "column"
        )


def require_one_split(parts: Path, labels: Path, labels_have_splits: bool) -> None:
    """Raise FmctError if the labels have a column split although parts are given."""
    if labels_have_splits:
        raise FmctError(
            f"{labels}: its column split conflicts with {parts}; set parts=null, or remove the column"
        )


def require_patient_level(patient_keys: NDArray[np.str_], splits: NDArray[np.str_], where: str) -> None:
    """Raise FmctError if a patient's volumes are in two splits.

    where: the source of the splits, for the message.
    """
    pairs = np.unique(np.stack([patient_keys, splits]), axis=1)
    patients, counts = np.unique(pairs[0], return_counts=True)
    if (counts > 1).any():
        first = patients[counts > 1][0]
        raise FmctError(
            f"{where}: {(counts > 1).sum()} patients are in more than one split, for example {first}; "
            "all studies of a patient, and of patients who share a scan, need the same split"
        )
