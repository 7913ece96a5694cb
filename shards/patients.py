"""Patients of a dataset: patient keys that share a scan count as one patient.

One scan that was exported under two Patient IDs (anonymised twice, or sent to two archives) becomes volumes
of two patients. Their pixels and geometry are equal, and so is their `source_digest`. Treated as two
patients, the scan could be in train and in test.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards.index import numbers


def tied_patients(index: pa.Table) -> NDArray[np.str_]:
    """The representative key of each volume's patient, (N,): the least key among equal source digests.

    index: a table with `patient_key` and `source_digest`, one row per volume. The relation is transitive: A
    and C are one patient if both share a scan with B. A patient without a shared scan keeps its own key.
    """
    patients, scans = (
        index[name].combine_chunks().dictionary_encode() for name in ("patient_key", "source_digest")
    )
    keys, of_row = patients.dictionary.to_pylist(), numbers(patients.indices)
    pairs = np.unique(numbers(scans.indices).astype(np.int64) * len(keys) + of_row)
    digests, in_digest = np.divmod(pairs, max(len(keys), 1))
    shared = np.flatnonzero(digests[1:] == digests[:-1])
    lesser: dict[int, int] = {}

    def representative(patient: int) -> int:
        while patient in lesser:
            patient = lesser[patient]
        return patient

    for place in shared.tolist():
        digest, both = int(digests[place]), in_digest[place : place + 2].tolist()
        if is_digest(scans.dictionary[digest].as_py()):
            low, high = sorted(map(representative, both), key=keys.__getitem__)
            if low != high:
                lesser[high] = low
    tied_to = np.array([representative(patient) for patient in range(len(keys))], np.int64)
    return np.array(keys, dtype=np.str_)[tied_to[of_row]]


def tied(index: pa.Table, patients: NDArray[np.str_]) -> int:
    """Number of patient keys that count as another patient with a lesser key; patients: `tied_patients`."""
    return len(index["patient_key"].unique()) - len(np.unique(patients))


def marks(index: pa.Table) -> frozenset[str]:
    """Patient keys and, if present, source digests: two tables with a common mark share a patient."""
    marks_ = set(index["patient_key"].to_pylist())
    if "source_digest" in index.column_names:
        marks_ |= {digest for digest in index["source_digest"].to_pylist() if is_digest(digest)}
    return frozenset(marks_)


@dataclass(frozen=True)
class Patients:
    """Some patients of a dataset, to be compared with those of another by `marks`."""

    keys: NDArray[np.str_]
    """Of `tied_patients`, each once."""
    of_volumes: NDArray[np.str_]
    """`tied_patients` of all volumes of the dataset, (N,)."""
    index: pa.Table
    """The dataset's: N rows."""

    def __len__(self) -> int:
        return len(self.keys)

    def marked(self, marks: frozenset[str]) -> int:
        """Number of these patients of whom any volume has one of another dataset's `marks`."""
        known = pa.array(list(marks), pa.string())
        common = [
            numbers(pc.is_in(self.index[name], known).cast(pa.uint8()))
            for name in ("patient_key", "source_digest")
        ]
        return int(np.isin(self.keys, self.of_volumes[np.any(common, axis=0)]).sum())


def is_digest(digest: str) -> bool:
    """Whether it is a real digest: shards written without one have a repeated single digit."""
    return len(set(digest)) > 1
