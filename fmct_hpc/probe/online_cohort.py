"""The volumes of a run's online probe: a small, fixed set.

Patients are assigned to two halves by their keys. Each half is scored by classifiers fitted to the other
half, so that no classifier has seen a patient that it scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.config import TrainConfig
from fmct_hpc.probe.labels import LabelTable
from fmct_hpc.probe.splits import patient_draws
from fmct_hpc.train.export import require_same_preprocessing
from shards import Dataset
from shards.errors import FmctError
from shards.names import is_component
from shards.patients import tied_patients

MIN_PATIENTS = 5
"""Patients required per class and half for a label to be probed; areas of fewer are meaningless."""
PROBED_SPLITS = ("train", "validation")
"""Splits of a label table that may be probed: checkpoints must not be chosen on test patients."""


@dataclass(frozen=True)
class OnlineCohort:
    """The probed volumes: (N,) each."""

    rows: NDArray[np.int64]
    """Their numbers in the dataset."""
    patients: NDArray[np.str_]
    """Keys."""
    halves: NDArray[np.int64]
    """0 or 1."""
    tasks: tuple[str, ...]
    values: NDArray[np.float32]
    """(N, tasks): 0, 1, or NaN where unknown."""


def online_cohort(
    dataset: Dataset, labels: Path, tasks: Sequence[str] | None, max_volumes: int
) -> OnlineCohort:
    """At most `max_volumes` of a dataset's labelled volumes, chosen by a hash of the patients' keys.

    tasks: label columns; None: all with enough patients of both classes in both halves. Raises FmctError for
    labels that are not in the table, cannot be part of a metric's name, or have too few patients.
    """
    table = LabelTable.read(labels, binary_only=True)
    for name in tasks or table.tasks:
        if name not in table.tasks:
            raise FmctError(f"{labels}: no label {name!r:.80}; found {', '.join(table.tasks)}")
        if not is_component(name):
            raise FmctError(
                f"{labels}: label {name!r:.80} is invalid in a metric's name (letters, digits and . _ + -); "
                "choose others with health.label"
            )
    joined = table.join(np.asarray(dataset.index["study_key"].to_pylist(), dtype=np.str_))
    keys = tied_patients(dataset.index)[joined.rows]
    open_ = np.ones(len(keys), bool) if joined.splits is None else np.isin(joined.splits, PROBED_SPLITS)
    order = np.argsort(patient_draws(keys, 0, "online probe"), kind="stable")
    chosen = np.sort(order[open_[order]][:max_volumes])
    patients, values = keys[chosen], joined.values[chosen]
    halves = (patient_draws(patients, 0, "online half") < 0.5).astype(np.int64)
    enough = [
        name for name in tasks or table.tasks if _enough(values[:, table.tasks.index(name)], patients, halves)
    ]
    if missing := [name for name in tasks or () if name not in enough] or ([] if enough else ["any label"]):
        raise FmctError(
            f"{labels}: fewer than {MIN_PATIENTS} patients with and without {missing[0]} in both halves of "
            f"{len(chosen)} volumes; choose others with health.label, or raise health.max_volumes"
        )
    columns = [table.tasks.index(name) for name in enough]
    return OnlineCohort(joined.rows[chosen], patients, halves, tuple(enough), values[:, columns])


def _enough(values: NDArray[np.float32], patients: NDArray[np.str_], halves: NDArray[np.int64]) -> bool:
    return all(
        len(np.unique(patients[(values == value) & (halves == half)])) >= MIN_PATIENTS
        for value in (0, 1)
        for half in (0, 1)
    )


def probed(config: TrainConfig, dataset: Dataset) -> tuple[Dataset, OnlineCohort] | None:
    """The dataset and the volumes that a run on `dataset` probes; None without health.labels.

    Raises FmctError as `online_cohort` does, and if the preprocessing of the volumes differs.
    """
    health = config.health
    if health.labels is None:
        return None
    data = dataset if health.data is None else Dataset.open(health.data)
    recorded = dataset.preprocessing()
    require_same_preprocessing(data, dataset.info.config_digest, recorded, "this run")
    return data, online_cohort(data, health.labels, health.label, health.max_volumes)
