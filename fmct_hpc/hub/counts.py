"""Size of an encoder's training dataset, for its card."""

from pathlib import Path
from typing import NamedTuple

import pyarrow.compute as pc

from fmct_hpc.train.attempts import attempts
from fmct_hpc.train.export import EncoderInfo
from shards import Dataset
from shards.errors import FmctError


class Counts(NamedTuple):
    """Size of the training data."""

    volumes: int
    studies: int
    patients: int


def counted(dataset: Dataset) -> Counts:
    """The numbers of volumes, studies and patients of a dataset."""
    studies, patients = (
        pc.count_distinct(dataset.index[name]).as_py() for name in ("study_key", "patient_key")
    )
    return Counts(len(dataset), studies, patients)


def counts_of(run: Path, info: EncoderInfo, data: Path | None) -> Counts | None:
    """Size of the training dataset at `data`, or at the path recorded by the run; None if not available.

    Raises FmctError if `data` is another dataset.
    """
    if data is None:
        started = attempts(run)
        if not started:
            return None
        place = run / started[-1].configuration["data"]["path"]
        try:
            dataset = Dataset.open(place, clipped=True)
        except FmctError:
            return None
        return counted(dataset) if dataset.info.digest == info.dataset_digest else None
    dataset = Dataset.open(data, clipped=True)
    if dataset.info.digest != info.dataset_digest:
        raise FmctError(f"{data}: not the training dataset of the encoder (digest mismatch)")
    return counted(dataset)
