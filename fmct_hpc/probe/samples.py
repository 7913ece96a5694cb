"""What one sample of a probe is: a volume, the best volume of a study, or all volumes of a study."""

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
from shards.roles import places
from shards.studies import studies_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Members:
    """The volumes that the studies of a cohort are made of, one behind another, best ones first."""

    volumes: NDArray[np.int64]
    """(M,): their places among the volumes of the cohort that the studies were made of."""
    roles: NDArray[np.int64]
    """(M,), numbers in `fmct_hpc.probe.series.ROLES`."""
    counts: NDArray[np.int64]
    """(B,)"""

    def of(self, studies: NDArray[np.int64]) -> "Members":
        """Those of some studies, in their order."""
        starts = np.cumsum(self.counts) - self.counts
        taken = [np.arange(starts[study], starts[study] + self.counts[study]) for study in studies.tolist()]
        members = np.concatenate([np.empty(0, np.int64), *taken])
        return Members(self.volumes[members], self.roles[members], self.counts[studies])

    def reading(self, values: NDArray[np.floating]) -> Series:
        """With what was read of each of `volumes`."""
        return Series(values, self.roles, np.cumsum(self.counts) - self.counts)


@dataclass(frozen=True)
class StudyCohort(Cohort):
    """Studies in place of volumes; each goes by its best volume's key and row."""

    members: Members | None = None
    """None where the best volume is all of a sample."""
    volumes: Cohort | None = None
    """The cohort of volumes that it was made of."""
    torn: int = 0
    """Studies that are left out, as their volumes bear several Patient IDs."""


def of_sample(cohort: Cohort, index: pa.Table, sample: Sample) -> Cohort:
    """A cohort of volumes as one of `sample`; index: of the dataset.

    Studies whose volumes bear several Patient IDs (of patients who share no scan) are left out with a warning
    that counts them: nobody knows whose patient's label, and whose part of a split, theirs is. Raises
    FmctError where no study is left.
    """
    if sample == "volume":
        return cohort
    studies = studies_of(index)
    labelled = {row: place for place, row in enumerate(cohort.rows.tolist())}
    torn = [study for study, rows in studies.torn.items() if int(rows[0]) in labelled]
    if torn:
        log.warning(
            "%d studies are left out of samples of studies, as their volumes bear several Patient IDs "
            "(several_patients), study %s for instance",
            len(torn),
            torn[0],
        )
    found = [
        np.array([labelled[row] for row in rows.tolist()], np.int64)
        for rows in studies.rows.values()
        if int(rows[0]) in labelled
    ]
    if not found:
        raise FmctError(f"sample {sample}: all {len(torn)} labelled studies bear several Patient IDs")
    found.sort(key=lambda volumes: int(volumes[0]))
    best = np.array([volumes[0] for volumes in found], np.int64)
    members = None
    if sample == "study":
        volumes = np.concatenate(found)
        numbers = {role: number for number, role in enumerate(ROLES)}
        roles = places(index).roles[cohort.rows[volumes]].tolist()
        members = Members(volumes, np.array([numbers[role] for role in roles]), np.array([*map(len, found)]))
    of_volumes = ("rows", "keys", "patient_keys", "values", "times")
    own = {name: getattr(cohort, name)[best] for name in of_volumes}
    own["splits"] = None if cohort.splits is None else cohort.splits[best]
    own["digest"] = hashlib.sha256(f"{cohort.digest} {sample}".encode()).hexdigest()
    return StudyCohort(**(vars(cohort) | own), members=members, volumes=cohort, torn=len(torn))
