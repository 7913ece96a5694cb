"""The volumes that have masks, split by patient."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.dense.config import SegmentConfig
from fmct_hpc.probe.cohort import is_tested, tested_rows
from fmct_hpc.probe.labels import LabelTable
from fmct_hpc.probe.splits import hashed_splits, require_patient_level
from shards import Dataset
from shards.errors import FmctError
from shards.info import sha256
from shards.masks import mask_info, require_volumes, unpacked, volumes_of
from shards.parts import PartsTable
from shards.patients import marks_of, tied_patients


@dataclass(frozen=True)
class Cohort:
    """Volumes with masks: (N,) each, in the order of the masks."""

    volumes: Dataset
    masks: Dataset
    mask_rows: NDArray[np.int64]
    """Their numbers among the masks."""
    rows: NDArray[np.int64]
    """Their numbers among the volumes."""
    keys: NDArray[np.str_]
    patient_keys: NDArray[np.str_]
    """Those who share a scan are one patient (shards.patients)."""
    splits: NDArray[np.str_]
    classes: tuple[str, ...]
    planes: tuple[int, ...]
    """Of the chosen classes, their numbers among the masks'."""
    marks: Mapping[str, frozenset[str]]
    """Of each patient: all keys, and digests of the scans."""
    digest: str
    """SHA-256 of whatever of volumes, masks and split the results depend on."""

    def truth(self, row: int) -> NDArray[np.bool_]:
        """The mask of a volume: (C, D, H, W), of the chosen classes."""
        bits = self.masks.read(int(self.mask_rows[row]))
        return unpacked(bits, max(self.planes) + 1)[list(self.planes)]

    def of(self, split: str) -> NDArray[np.int64]:
        """The rows of a split."""
        return np.flatnonzero(self.splits == split)

    def tests(self) -> dict[str, NDArray[np.int64]]:
        """Rows of each test set that has any: `id`, `ood` and `ood:NAME`."""
        return tested_rows(self.splits)

    def tested(self) -> dict[str, frozenset[str]]:
        """The patients that heads are tested on, and their `marks`."""
        some = is_tested(self.splits)
        return {patient: self.marks[patient] for patient in np.unique(self.patient_keys[some]).tolist()}


def read_cohort(config: SegmentConfig) -> Cohort:
    """Join masks with their volumes and split the patients, as parts or labels say or by hash.

    Raises FmctError for masks of other volumes, an unknown class, a patient in no part or in two, and where
    nobody would teach, choose or be tested on.
    """
    volumes, masks = Dataset.open(config.data), Dataset.open(config.masks)
    require_volumes(volumes)
    info = mask_info(masks)
    chosen = config.classes or info.classes
    if unknown := set(chosen) - set(info.classes):
        raise FmctError(f"{config.masks}: has no class {min(unknown)}, only {', '.join(info.classes)}")
    rows = volumes_of(masks, volumes)
    mask_rows = np.arange(len(rows))
    patients = tied_patients(volumes.index)[rows]
    said_by, splits = None, hashed_splits(patients, config.split)
    if config.parts is not None:
        said_by = config.parts
        table = PartsTable.read(config.parts)
        table.require_splits()
        own = [volumes.index["patient_key"][row].as_py() for row in rows.tolist()]
        splits = np.asarray(table.parts_of_patients(own), dtype=np.str_)
    elif config.labels is not None:
        said_by = config.labels
        studies = [volumes.index["study_key"][row].as_py() for row in rows.tolist()]
        joined = LabelTable.read(config.labels).join(np.asarray(studies, dtype=np.str_))
        if joined.splits is None:
            raise FmctError(f"{config.labels}: has no column split; leave labels out, or give one")
        splits = joined.splits
        mask_rows, rows, patients = mask_rows[joined.rows], rows[joined.rows], patients[joined.rows]
    if said_by is not None:
        require_patient_level(patients, splits, str(said_by))
    for split, there in (
        ("train", splits == "train"),
        ("validation", splits == "validation"),
        ("test or ood", is_tested(splits)),
    ):
        if not there.any():
            raise FmctError(
                f"{config.masks}: no patient with a mask is in {split}; give other parts, or more masks"
            )
    split_by = sha256(said_by) if said_by is not None else config.split.model_dump_json()
    described = f"{volumes.info.digest} {masks.info.digest} {chosen} {split_by}"
    return Cohort(
        volumes=volumes,
        masks=masks,
        mask_rows=mask_rows,
        rows=rows,
        keys=np.asarray([volumes.index["key"][row].as_py() for row in rows.tolist()], dtype=np.str_),
        patient_keys=patients,
        splits=splits,
        classes=chosen,
        planes=tuple(info.classes.index(name) for name in chosen),
        marks=marks_of(volumes.index),
        digest=hashlib.sha256(described.encode()).hexdigest(),
    )
