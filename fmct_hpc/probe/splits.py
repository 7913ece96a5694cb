"""Which patients a probe learns from, chooses by, and is tested on."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from fmct_hpc.fields import Fraction, Seed
from shards.errors import FmctError
from shards.section import Section


class SplitConfig(Section):
    """Shares of the patients; where `parts` or the labels' column `split` say it, that holds instead."""

    test: Fraction = 0.3
    """Enough patients for narrow intervals, while most still teach."""
    validation: Fraction = 0.1
    """Regularisation and step are chosen on these."""
    seed: Seed = 0

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> "SplitConfig":
        if self.test + self.validation >= 1:
            raise ValueError("test and validation leave no patient for training")
        return self


def patient_draws(patient_keys: NDArray[np.str_], seed: int, purpose: str) -> NDArray[np.float64]:
    """A number in [0, 1) for each patient, the same wherever the patient stands and whoever else does.

    The first 53 bits of SHA-256 of purpose, seed and key. Those below a fraction f are a sample of about
    that share of the patients, and samples of smaller f lie within those of greater f.
    """
    patients, inverse = np.unique(patient_keys, return_inverse=True)
    digests = [hashlib.sha256(f"{purpose} {seed} {key}".encode()).digest() for key in patients.tolist()]
    draws = np.array([int.from_bytes(digest[:8]) >> 11 for digest in digests], dtype=np.float64) / 2**53
    return draws[inverse]


def hashed_splits(patient_keys: NDArray[np.str_], config: SplitConfig) -> NDArray[np.str_]:
    """The split of each volume's patient, (N,) of `shards.split_names.SPLITS`.

    A function of the patient's key alone: a patient keeps the split when volumes are added or left out.
    """
    draws = patient_draws(patient_keys, config.seed, "split")
    chosen = np.where(draws < config.test, "test", "train")
    return np.where((draws >= config.test) & (draws < config.test + config.validation), "validation", chosen)


def require_no_folds(said_by: Path, folds: int | None) -> None:
    """Raise FmctError where cross-validation is asked for, and labels or parts (`said_by`) say the splits."""
    if folds is not None:
        raise FmctError(
            f"{said_by}: its column split says who is tested, and folds={folds} asks for cross-validation: "
            "set folds=null, or leave the column out"
        )


def require_one_split(parts: Path, labels: Path, labels_say: bool) -> None:
    """Raise FmctError where the labels have a column split (`labels_say`) beside the parts."""
    if labels_say:
        raise FmctError(
            f"{labels}: its column split says who is tested, and so does {parts}: set parts=null, or leave "
            "the column out"
        )


def require_patient_level(patient_keys: NDArray[np.str_], splits: NDArray[np.str_], where: str) -> None:
    """Raise FmctError where a patient's volumes are in two splits.

    where: what gave the splits, for the message.
    """
    pairs = np.unique(np.stack([patient_keys, splits]), axis=1)
    patients, counts = np.unique(pairs[0], return_counts=True)
    if (counts > 1).any():
        first = patients[counts > 1][0]
        raise FmctError(
            f"{where}: {(counts > 1).sum()} patients are in more than one split, patient {first} for "
            "instance; give all studies of a patient, and of all who share a scan, one split"
        )
