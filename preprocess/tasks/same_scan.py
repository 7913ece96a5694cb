"""Flags volumes of different patients made from the same scan, which count as one patient's."""

import numpy as np
import pyarrow as pa

from preprocess.reasons import Reason
from preprocess.tasks.manifest import SCHEMA
from shards.patients import is_digest


def with_same_scans(volumes: pa.Table) -> pa.Table:
    """Manifest rows with the flag `same_scan` if another patient's volume has the same source digest."""
    digests = volumes["source_digest"].to_pylist()
    patients: dict[str, set[str]] = {}
    for patient, digest in zip(volumes["patient_key"].to_pylist(), digests, strict=True):
        patients.setdefault(digest, set()).add(patient)
    shared = np.array([is_digest(digest) and len(patients[digest]) > 1 for digest in digests], bool)
    if not shared.any():
        return volumes
    flags = [
        [*flags, Reason.SAME_SCAN] if same else flags
        for flags, same in zip(volumes["flags"].to_pylist(), shared.tolist(), strict=True)
    ]
    field = SCHEMA.field("flags")
    return volumes.set_column(SCHEMA.get_field_index("flags"), field, pa.array(flags, field.type))
