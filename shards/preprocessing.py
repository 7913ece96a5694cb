"""Whether two preprocessing configurations give the same voxels, regardless of other differences."""

from collections.abc import Mapping
from typing import Any

CHOICE = {"select": ("anatomy",), "check": ()}
"""Sections of preprocessing.json that decide which series become volumes, and their only keys that affect a
volume's voxels."""
BESIDE = {"privacy": ("show_defacing", "date_shift_days", "share")}
"""Keys of the other sections that do not affect a volume."""


def same_voxels(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two documents of preprocessing.json agree in everything that affects a volume's voxels.

    Unknown sections and keys count as affecting them.
    """
    return _of_voxels(one) == _of_voxels(other)


def _of_voxels(document: Mapping[str, Any]) -> dict[str, Any]:
    settings = {
        name: {key: value for key, value in section.items() if key not in BESIDE.get(name, ())}
        if isinstance(section, dict)
        else section
        for name, section in document.items()
        if name not in CHOICE
    }
    for name, keys in CHOICE.items():
        section = document.get(name)
        if isinstance(section, dict):
            settings |= {f"{name}.{key}": section[key] for key in keys if key in section}
    return settings
