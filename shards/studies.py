"""The volumes of a dataset, grouped by study."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.patients import tied_patients
from shards.roles import study_roles


class Studies(NamedTuple):
    """The studies of an index."""

    rows: dict[str, NDArray[np.int64]]
    """Rows of each study's volumes, best volume first, by study key, in the order of the first volumes."""
    torn: dict[str, NDArray[np.int64]]
    """The same for studies whose volumes have several Patient IDs: the patient of their label is unknown."""


def studies_of(index: pa.Table) -> Studies:
    """Volumes by study; patients who share a scan are one (`shards.patients`)."""
    ranks, patients = study_roles(index).ranks, tied_patients(index)
    groups: dict[str, list[int]] = defaultdict(list)
    for row, study in enumerate(index["study_key"].to_pylist()):
        groups[study].append(row)
    keys = index["key"].to_pylist()
    studies = Studies({}, {})
    for study, rows in groups.items():
        of = studies.torn if len({*patients[rows].tolist()}) > 1 else studies.rows
        of[study] = np.array(sorted(rows, key=lambda row: (ranks[row], keys[row])), np.int64)
    return studies
