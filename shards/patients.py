"""Patients of a dataset: patient keys that share a scan count as one patient.

One scan that was exported under two Patient IDs (anonymised twice, or sent to two archives) becomes volumes
of two patients. Their pixels and geometry are equal, and so is their `source_digest`. Treated as two
patients, the scan could be in train and in test.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def tied_patients(index: pa.Table) -> NDArray[np.str_]:
    """The representative key of each volume's patient, (N,): the least key among equal source digests.

    index: a table with `patient_key` and `source_digest`, one row per volume. The relation is transitive: A
    and C are one patient if both share a scan with B. A patient without a shared scan keeps its own key.
    """
    patients, digests = (index[name].to_pylist() for name in ("patient_key", "source_digest"))
    lesser: dict[str, str] = {}

    def representative(patient: str) -> str:
        while patient in lesser:
            patient = lesser[patient]
        return patient

    first: dict[str, str] = {}
    for patient, digest in zip(patients, digests, strict=True):
        if is_digest(digest):
            low, high = sorted((representative(first.setdefault(digest, patient)), representative(patient)))
            if low != high:
                lesser[high] = low
    return np.array([representative(patient) for patient in patients], dtype=np.str_)


def tied(index: pa.Table) -> int:
    """Number of patient keys that count as another patient with a lesser key."""
    keys = np.asarray(index["patient_key"].to_pylist(), dtype=np.str_)
    return len(np.unique(keys)) - len(np.unique(tied_patients(index)))


def marks(index: pa.Table) -> frozenset[str]:
    """Patient keys and, if present, source digests: two tables with a common mark share a patient."""
    marks_ = set(index["patient_key"].to_pylist())
    if "source_digest" in index.column_names:
        marks_ |= {digest for digest in index["source_digest"].to_pylist() if is_digest(digest)}
    return frozenset(marks_)


def marks_of(index: pa.Table) -> dict[str, frozenset[str]]:
    """`marks` of each patient of `tied_patients`, by the key."""
    by_patient: dict[str, set[str]] = {}
    columns = (index[name].to_pylist() for name in ("patient_key", "source_digest"))
    for patient, key, digest in zip(tied_patients(index).tolist(), *columns, strict=True):
        by_patient.setdefault(patient, set()).update([key, digest] if is_digest(digest) else [key])
    return {patient: frozenset(of) for patient, of in by_patient.items()}


def is_digest(digest: str) -> bool:
    """Whether it is a real digest: shards written without one have a repeated single digit."""
    return len(set(digest)) > 1
