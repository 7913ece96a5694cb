"""Who the patients of a dataset are: those who share a scan are one, whatever their keys say.

One scan that was exported under two Patient IDs (anonymised twice, or sent to two archives) becomes volumes
of two patients. Pixels and geometry are equal, and so is their `source_digest`; left apart, the two could
stand in train and test.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def tied_patients(index: pa.Table) -> NDArray[np.str_]:
    """The key by which each volume's patient goes, (N,): the least of those tied by equal source digests.

    index: a table with `patient_key` and `source_digest`, a row a volume. Patients are tied in chains: A and
    C where both share a scan with B. A patient who shares none goes by the own key.
    """
    patients, digests = (index[name].to_pylist() for name in ("patient_key", "source_digest"))
    lesser: dict[str, str] = {}

    def least(patient: str) -> str:
        while patient in lesser:
            patient = lesser[patient]
        return patient

    first: dict[str, str] = {}
    for patient, digest in zip(patients, digests, strict=True):
        if is_digest(digest):
            low, high = sorted((least(first.setdefault(digest, patient)), least(patient)))
            if low != high:
                lesser[high] = low
    return np.array([least(patient) for patient in patients], dtype=np.str_)


def tied(index: pa.Table) -> int:
    """How many patients share a scan with a patient of a lesser key, and so count as that one."""
    keys = np.asarray(index["patient_key"].to_pylist(), dtype=np.str_)
    return len(np.unique(keys)) - len(np.unique(tied_patients(index)))


def marks(index: pa.Table) -> frozenset[str]:
    """Patient keys and, where the table has them, source digests: what two tables of one patient share."""
    found = set(index["patient_key"].to_pylist())
    if "source_digest" in index.column_names:
        found |= {digest for digest in index["source_digest"].to_pylist() if is_digest(digest)}
    return frozenset(found)


def marks_of(index: pa.Table) -> dict[str, frozenset[str]]:
    """`marks` of each patient of `tied_patients`, by the key."""
    found: dict[str, set[str]] = {}
    columns = (index[name].to_pylist() for name in ("patient_key", "source_digest"))
    for patient, key, digest in zip(tied_patients(index).tolist(), *columns, strict=True):
        found.setdefault(patient, set()).update([key, digest] if is_digest(digest) else [key])
    return {patient: frozenset(of) for patient, of in found.items()}


def is_digest(digest: str) -> bool:
    """Whether it is of a scan: who wrote shards without one filled the place with one digit."""
    return len(set(digest)) > 1
