"""Samples of a probe: a volume, the best volume of a study, or all volumes of a study."""

import hashlib
import logging
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fmct_hpc.probe.cohort import Cohort
from fmct_hpc.probe.config import Sample
from fmct_hpc.probe.series import ROLES, Series
from shards.errors import FmctError
from shards.roles import study_roles
from shards.studies import studies_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Members:
    """The volumes of a cohort's studies, concatenated, the best volume of each study first."""

    volumes: NDArray[np.int64]
    """(M,): their positions in the underlying cohort of volumes."""
    roles: NDArray[np.int64]
    """(M,), numbers in `fmct_hpc.probe.series.ROLES`."""
    counts: NDArray[np.int64]
    """(B,)"""

    def of(self, studies: NDArray[np.int64]) -> "Members":
        """The members of the given studies, in their order."""
        starts = np.cumsum(self.counts) - self.counts
        rows_of_studies = [
            np.arange(starts[study], starts[study] + self.counts[study]) for study in studies.tolist()
        ]
        members = np.concatenate([np.empty(0, np.int64), *rows_of_studies])
        return Members(self.volumes[members], self.roles[members], self.counts[studies])

    def reading(self, values: NDArray[np.floating]) -> Series:
        """A `Series` with these values of `volumes`."""
        return Series(values, self.roles, np.cumsum(self.counts) - self.counts)


@dataclass(frozen=True)
class StudyCohort(Cohort):
    """A cohort of studies; each is identified by the key and row of its best volume."""

    members: Members | None = None
    """None if a sample is only the best volume."""
    volumes: Cohort | None = None
    """The underlying cohort of volumes."""
    torn: int = 0
    """Studies left out because their volumes have several Patient IDs."""


def of_sample(cohort: Cohort, index: pa.Table, sample: Sample) -> Cohort:
    """Convert a cohort of volumes to samples of type `sample`; index: the dataset's index.

    Studies whose volumes have several Patient IDs (of patients who share no scan) are left out with a warning
    that counts them, because their label and split are ambiguous. Raises FmctError if no study is left.
    """
    if sample == "volume":
        return cohort
    studies = studies_of(index)
    labelled = {row: place for place, row in enumerate(cohort.rows.tolist())}
    torn = [study for study, rows in studies.torn.items() if int(rows[0]) in labelled]
    if torn:
        log.warning(
            "%d studies are left out because their volumes have several Patient IDs (several_patients), "
            "for example study %s",
            len(torn),
            torn[0],
        )
    selected = [
        np.array([labelled[row] for row in rows.tolist()], np.int64)
        for rows in studies.rows.values()
        if int(rows[0]) in labelled
    ]
    if not selected:
        raise FmctError(f"sample {sample}: all {len(torn)} labelled studies have several Patient IDs")
    selected.sort(key=lambda volumes: int(volumes[0]))
    best = np.array([volumes[0] for volumes in selected], np.int64)
    members = None
    if sample == "study":
        volumes = np.concatenate(selected)
        numbers = {role: number for number, role in enumerate(ROLES)}
        roles = study_roles(index).roles[cohort.rows[volumes]].tolist()
        members = Members(
            volumes, np.array([numbers[role] for role in roles]), np.array([*map(len, selected)])
        )
    by_row = ("rows", "keys", "patient_keys", "values", "times")
    own = {name: getattr(cohort, name)[best] for name in by_row}
    own["splits"] = None if cohort.splits is None else cohort.splits[best]
    own["digest"] = hashlib.sha256(f"{cohort.digest} {sample}".encode()).hexdigest()
    return StudyCohort(**(vars(cohort) | own), members=members, volumes=cohort, torn=len(torn))
