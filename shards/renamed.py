"""The one table of keys of configurations that were renamed: what has an old name is read, with a warning."""

import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

RENAMED: dict[str, dict[str, str]] = {}
"""By the section's class, a key's old name and its present one: {"GridConfig": {"air_hu": "air_at_hu"}}.

Recipes, overrides and stored configurations are all read by it (shards.section). An entry stays as long as
docs/formats.md promises that the files with the old name are read.
"""


def of_section(cls: type) -> dict[str, str]:
    """Old names and present ones of the keys of a section, its base classes' among them."""
    return {old: new for base in reversed(cls.__mro__) for old, new in RENAMED.get(base.__name__, {}).items()}


def with_present_names(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` of a section with each key under its present name.

    Raises ValueError where a key is given by both of its names.
    """
    found = dict(values)
    for old, new in of_section(cls).items():
        if old in found:
            if new in found:
                raise ValueError(f"{old} is the old name of {new}, and both are given: drop {old}")
            log.warning("%s: %s is called %s now; the old name is still read", cls.__name__, old, new)
            found[new] = found.pop(old)
    return found
