"""The labelled volumes of a dataset, split by patient."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fmct_hpc.probe.budget import Budget, Parts, folds_of, rotations, thin
from fmct_hpc.probe.kinds import Kind, kind_class
from fmct_hpc.probe.kinds.base import Targets
from fmct_hpc.probe.labels import LabelTable
from fmct_hpc.probe.splits import (
    SplitConfig,
    hashed_splits,
    require_no_folds,
    require_one_split,
    require_patient_level,
)
from fmct_hpc.probe.store import FeatureStore
from shards import Dataset
from shards.errors import FmctError
from shards.info import sha256
from shards.label_kinds import KindSpec
from shards.masks import require_volumes
from shards.parts import PartsTable
from shards.patients import Patients, tied, tied_patients
from shards.split_names import is_ood


@dataclass(frozen=True)
class Cohort:
    """Volumes with a row of labels: (N,) each, in the dataset's order."""

    rows: NDArray[np.int64]
    """Their numbers in the dataset."""
    keys: NDArray[np.str_]
    patient_keys: NDArray[np.str_]
    """Patients who share a scan count as one (shards.patients)."""
    of_volumes: NDArray[np.str_]
    """The patient of each of the dataset's volumes."""
    index: pa.Table
    """The dataset's."""
    tasks: tuple[str, ...]
    values: NDArray[np.float64]
    """(N, tasks): 0 or 1, or the value of another kind of label; NaN where unknown."""
    times: NDArray[np.float64]
    """(N, tasks): time to event or censoring; NaN for other kinds."""
    splits: NDArray[np.str_] | None
    """None with cross-validation."""
    folds: int
    """1 for a single split."""
    seed: int
    """For the assignment to folds."""
    digest: str
    """SHA-256 of the parts of dataset, labels and split on which results depend."""
    specs: Mapping[str, KindSpec] = field(default_factory=dict)
    """Kinds of the tasks that are not binary."""

    def kind(self, task: str) -> Kind:
        """The kind of label of a task."""
        values = self.values[:, self.tasks.index(task)]
        return kind_class(self.specs.get(task, "binary")).over(values[~np.isnan(values)])

    def targets(self, task: str) -> Targets:
        """The targets, one row per volume; undefined where the label is unknown."""
        column = self.tasks.index(task)
        return self.kind(task).targets(self.values[:, column], self.times[:, column])

    def parts(self, task: str, budget: Budget, seed: int) -> list[Parts]:
        """Rows with a known label for a task and a label budget, one entry per fold.

        Raises TooFewError if the cohort is too small for the budget.
        """
        known, kind = np.flatnonzero(~np.isnan(self.values[:, self.tasks.index(task)])), self.kind(task)
        patients, strata = self.patient_keys[known], kind.strata(self.targets(task)[known])
        if self.splits is None:
            whole = rotations(folds_of(patients, strata, self.folds, self.seed), self.folds)
        else:
            split = self.splits[known]
            train, validation = np.flatnonzero(split == "train"), np.flatnonzero(split == "validation")
            whole = [Parts(train, validation, tested_rows(split))]
        names = kind.stratum_names()
        thinned = [thin(parts, patients, strata, names, budget, seed) for parts in whole]
        return [
            Parts(known[p.train], known[p.validation], {name: known[rows] for name, rows in p.tests.items()})
            for p in thinned
        ]

    def tested(self) -> Patients:
        """The patients in any test set."""
        some = slice(None) if self.splits is None else is_tested(self.splits)
        return Patients(np.unique(self.patient_keys[some]), self.of_volumes, self.index)

    def places_in(self, store: FeatureStore) -> NDArray[np.int64]:
        """Rows of a feature store for the cohort's volumes; raises FmctError if one is missing."""
        place = {key: row for row, key in enumerate(store.keys.tolist())}
        missing = [key for key in self.keys.tolist() if key not in place]
        if missing:
            raise FmctError(
                f"{store.path}: no features of {len(missing)} labelled volumes, for example {missing[0]}; "
                "extract the features again"
            )
        return np.array([place[key] for key in self.keys.tolist()], dtype=np.int64)


def tested_rows(splits: NDArray[np.str_]) -> dict[str, NDArray[np.int64]]:
    """Rows of each non-empty test set, by its name in tables: `id`, `ood` and `ood:NAME`."""
    by_split = {"id": np.flatnonzero(splits == "test")}
    by_split |= {name: np.flatnonzero(splits == name) for name in np.unique(splits).tolist() if is_ood(name)}
    return {name: rows for name, rows in by_split.items() if len(rows)}


def is_tested(splits: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Whether each volume is in a test set, from its split: (N,) -> (N,)."""
    return np.array([split == "test" or is_ood(split) for split in splits.tolist()], dtype=np.bool_)


def read_cohort(
    data: Path,
    labels: Path,
    tasks: tuple[str, ...] | None,
    split: SplitConfig,
    folds: int | None,
    parts: Path | None = None,
    kinds: Mapping[str, KindSpec] | None = None,
) -> Cohort:
    """Join a dataset with its labels and split its patients by parts, by the labels, by folds, or by hash.

    parts: file of `fmct shards split`. kinds: kinds of the labels that are not binary.

    Raises FmctError for a dataset of masks; for labels that lack a task or are of another kind; for more than
    one of parts, a split column in the labels, and folds; for a patient in no part; and for splits that are
    not by patient.
    """
    dataset, table = Dataset.open(data), LabelTable.read(labels, kinds, tasks)
    require_volumes(dataset)
    chosen = table.tasks
    joined = table.join(np.asarray(dataset.index["study_key"].to_pylist(), dtype=np.str_))
    keys = np.asarray(dataset.index["key"].to_pylist(), dtype=np.str_)[joined.rows]
    of_volumes = tied_patients(dataset.index)
    patients = of_volumes[joined.rows]
    splits, split_file = joined.splits, labels
    if parts is not None:
        require_one_split(parts, labels, joined.splits is not None)
        own = np.asarray(dataset.index["patient_key"].to_pylist(), dtype=np.str_)[joined.rows]
        splits, split_file = _splits_of(parts, own), parts
    if splits is not None:
        require_no_folds(split_file, folds)
        require_patient_level(patients, splits, str(split_file))
    elif folds is None:
        splits = hashed_splits(patients, split)
    shares = ", ".join(f"{key}={value!r}" for key, value in split.recorded().items())
    described = f"[{dataset.info.digest!r}, {sha256(labels)!r}, {chosen!r}, SplitConfig({shares}), {folds!r}]"
    described += " tied" if tied(dataset.index, of_volumes) else ""
    described += f" parts {sha256(parts)}" if parts is not None else ""
    return Cohort(
        rows=joined.rows,
        keys=keys,
        patient_keys=patients,
        of_volumes=of_volumes,
        index=dataset.index,
        tasks=chosen,
        values=joined.values,
        times=joined.times,
        splits=splits,
        folds=folds or 1,
        seed=split.seed,
        digest=hashlib.sha256(described.encode()).hexdigest(),
        specs={task: spec for task, spec in (kinds or {}).items() if task in chosen and spec != "binary"},
    )


def _splits_of(parts: Path, patients: NDArray[np.str_]) -> NDArray[np.str_]:
    """The split of each volume's patient, (N,); raises FmctError for a patient without a split."""
    table = PartsTable.read(parts)
    table.require_splits()
    return np.asarray(table.parts_of_patients(patients.tolist()), dtype=np.str_)
