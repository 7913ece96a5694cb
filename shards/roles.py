"""The role of a volume within its study (kernel and thickness), and its rank."""

from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.schema import OF_STUDY, KernelClass, Role

THIN_MM = 2.5
"""Slices below this are thin: routine heads have 4 to 5 mm, bone and vessel reconstructions 0.5 to 1.5."""
_KERNELS: tuple[KernelClass, ...] = ("soft", "unknown", "bone")
"""Best first, in the default order of selection."""
_FACTS = ("key", "study_key", "patient_key", "kernel_class", "slice_thickness_mm", "slice_gap_mm", "slices")


class StudyRoles(NamedTuple):
    """Role and rank of each volume of a dataset, (N,)."""

    roles: NDArray[np.str_]
    """Values of `shards.schema.Role`."""
    ranks: NDArray[np.int64]
    """0 for the best volume of its study and patient, then 1 and so on."""


def role_of(kernel: KernelClass, thickness_mm: float) -> Role:
    """The role of a series by its kernel class and the greater of slice thickness and slice distance."""
    roles: dict[tuple[KernelClass, bool], Role] = {
        ("soft", False): "soft_thick",
        ("soft", True): "soft_thin",
        ("bone", False): "bone_thick",
        ("bone", True): "bone_thin",
        ("unknown", False): "unknown_thick",
        ("unknown", True): "unknown_thin",
    }
    return roles[kernel, thickness_mm < THIN_MM]


def thickness_of(slice_thickness_mm: float | None, slice_gap_mm: tuple[float, float]) -> float:
    """The thickness for `role_of`, from a record's facts: 1 mm slices every 5 mm are not thin."""
    return max(slice_thickness_mm or 0.0, slice_gap_mm[0])


def study_roles(index: pa.Table) -> StudyRoles:
    """Roles and ranks of the volumes of an index (shards.index), in its order.

    If the index does not hold them (a dataset of one volume per study), roles are derived from the facts, and
    the volumes of a study are ranked by selection's default: kernel, thinner slices, more slices, finally the
    smaller key.
    """
    present = [name for name in OF_STUDY if name in index.column_names]
    rows = index.select([*_FACTS, *present]).to_pylist()
    thickness = [thickness_of(row["slice_thickness_mm"], row["slice_gap_mm"]) for row in rows]
    roles = [
        row.get("role") or role_of(row["kernel_class"], mm) for row, mm in zip(rows, thickness, strict=True)
    ]
    ranks = np.zeros(len(rows), np.int64)
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[row["study_key"], row["patient_key"]].append(number)
    for group in groups.values():
        order = sorted(group, key=lambda n: _by_default(rows[n], thickness[n]))
        if all(rows[n].get("rank") is not None for n in group):
            order = sorted(group, key=lambda n: (rows[n]["rank"], rows[n]["key"]))
        ranks[order] = np.arange(len(order))
    return StudyRoles(np.array(roles, np.str_), ranks)


def _by_default(row: dict[str, Any], thickness_mm: float) -> tuple[int, float, int, str]:
    return _KERNELS.index(row["kernel_class"]), round(thickness_mm, 1), -row["slices"], row["key"]
