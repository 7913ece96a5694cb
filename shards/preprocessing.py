"""Whether two configurations of preprocessing give the same voxels, whatever else differs."""

from collections.abc import Mapping
from typing import Any

CHOICE = {"select": ("anatomy",), "check": ()}
"""Sections of preprocessing.json that decide which series become volumes, not what a volume's voxels are; but
for these keys of them."""
BESIDE = {"privacy": ("show_defacing", "date_shift_days", "share")}
"""Keys of the other sections that change nothing in a volume."""


def same_voxels(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether documents of preprocessing.json agree in all that a volume's voxels depend on.

    Sections and keys that this version does not know count.
    """
    return _of_voxels(one) == _of_voxels(other)


def _of_voxels(document: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        name: {key: value for key, value in section.items() if key not in BESIDE.get(name, ())}
        if isinstance(section, dict)
        else section
        for name, section in document.items()
        if name not in CHOICE
    }
    for name, keys in CHOICE.items():
        section = document.get(name)
        if isinstance(section, dict):
            found |= {f"{name}.{key}": section[key] for key in keys if key in section}
    return found
