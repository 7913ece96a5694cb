"""The volumes of a dataset study by study."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.patients import tied_patients
from shards.roles import places


class Studies(NamedTuple):
    """The studies of an index."""

    rows: dict[str, NDArray[np.int64]]
    """By study key, in the order of their first volumes: the rows of its volumes, the best one first."""
    torn: dict[str, NDArray[np.int64]]
    """Likewise, those whose volumes bear several Patient IDs: the patient of their label is unknown."""


def studies_of(index: pa.Table) -> Studies:
    """Volumes by study; patients who share a scan are one (`shards.patients`)."""
    ranks, patients = places(index).ranks, tied_patients(index)
    groups: dict[str, list[int]] = defaultdict(list)
    for row, study in enumerate(index["study_key"].to_pylist()):
        groups[study].append(row)
    keys = index["key"].to_pylist()
    found = Studies({}, {})
    for study, rows in groups.items():
        of = found.torn if len({*patients[rows].tolist()}) > 1 else found.rows
        of[study] = np.array(sorted(rows, key=lambda row: (ranks[row], keys[row])), np.int64)
    return found
