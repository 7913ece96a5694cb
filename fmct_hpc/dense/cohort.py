"""Volumes with masks, split by patient."""

import hashlib
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
from shards.patients import Patients, tied_patients


@dataclass(frozen=True)
class Cohort:
    """Volumes with masks: (N,) each, in the order of the masks."""

    volumes: Dataset
    masks: Dataset
    mask_rows: NDArray[np.int64]
    """Row numbers in the masks' dataset."""
    rows: NDArray[np.int64]
    """Row numbers in the volumes' dataset."""
    keys: NDArray[np.str_]
    patient_keys: NDArray[np.str_]
    """Patients who share a scan count as one (shards.patients)."""
    splits: NDArray[np.str_]
    classes: tuple[str, ...]
    planes: tuple[int, ...]
    """Numbers of the chosen classes in the masks."""
    of_volumes: NDArray[np.str_]
    """The patient of each of the dataset's volumes."""
    digest: str
    """SHA-256 of the parts of volumes, masks and split on which results depend."""

    def truth(self, row: int) -> NDArray[np.bool_]:
        """The mask of a volume for the chosen classes: (C, D, H, W)."""
        bits = self.masks.read(int(self.mask_rows[row]))
        return unpacked(bits, max(self.planes) + 1)[list(self.planes)]

    def of(self, split: str) -> NDArray[np.int64]:
        """The rows of a split."""
        return np.flatnonzero(self.splits == split)

    def tests(self) -> dict[str, NDArray[np.int64]]:
        """Rows of each non-empty test set: `id`, `ood` and `ood:NAME`."""
        return tested_rows(self.splits)

    def tested(self) -> Patients:
        """The tested patients."""
        keys = np.unique(self.patient_keys[is_tested(self.splits)])
        return Patients(keys, self.of_volumes, self.volumes.index)


def read_cohort(config: SegmentConfig) -> Cohort:
    """Join masks with their volumes and split the patients by parts, by labels, or by hash.

    Raises FmctError for masks of other volumes, an unknown class, a patient in no part or in two, and if
    there are no patients for training, validation or test.
    """
    volumes, masks = Dataset.open(config.data), Dataset.open(config.masks)
    require_volumes(volumes)
    info = mask_info(masks)
    chosen = config.classes or info.classes
    if unknown := set(chosen) - set(info.classes):
        raise FmctError(f"{config.masks}: no class {min(unknown)}; found {', '.join(info.classes)}")
    rows = volumes_of(masks, volumes)
    mask_rows = np.arange(len(rows))
    of_volumes = tied_patients(volumes.index)
    patients = of_volumes[rows]
    split_file, splits = None, hashed_splits(patients, config.split)
    if config.parts is not None:
        split_file = config.parts
        table = PartsTable.read(config.parts)
        table.require_splits()
        own = [volumes.index["patient_key"][row].as_py() for row in rows.tolist()]
        splits = np.asarray(table.parts_of_patients(own), dtype=np.str_)
    elif config.labels is not None:
        split_file = config.labels
        studies = [volumes.index["study_key"][row].as_py() for row in rows.tolist()]
        joined = LabelTable.read(config.labels).join(np.asarray(studies, dtype=np.str_))
        if joined.splits is None:
            raise FmctError(f"{config.labels}: no column split; add it, or remove labels")
        splits = joined.splits
        mask_rows, rows, patients = mask_rows[joined.rows], rows[joined.rows], patients[joined.rows]
    if split_file is not None:
        require_patient_level(patients, splits, str(split_file))
    for split, present in (
        ("train", splits == "train"),
        ("validation", splits == "validation"),
        ("test or ood", is_tested(splits)),
    ):
        if not present.any():
            raise FmctError(
                f"{config.masks}: no patient with a mask is in {split}; use other parts or more masks"
            )
    split_by = sha256(split_file) if split_file is not None else config.split.model_dump_json()
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
        of_volumes=of_volumes,
        digest=hashlib.sha256(described.encode()).hexdigest(),
    )
