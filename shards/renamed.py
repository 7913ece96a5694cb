"""The one table of keys of configurations that were renamed.

What has an old name is read: of a recipe or an override with a warning, of a stored record without.
"""

import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

RENAMED: dict[str, dict[str, str]] = {
    "HealthConfig": {
        "most_volumes": "max_volumes",
        "most_skipped": "max_skipped",
        "least_divergence": "min_divergence",
        "least_feature_deviation": "min_feature_deviation",
        "least_rise": "min_rise",
        "most_crop_likeness": "max_crop_likeness",
        "least_rank": "min_rank",
        "most_patch_drift": "max_patch_drift",
        "most_tissue_dropped": "max_tissue_dropped",
    },
    "FinetuneConfig": {"most_positive_weight": "max_positive_weight"},
    "ComparisonConfig": {
        "least_specificity": "min_specificity",
        "least_sensitivity": "min_sensitivity",
    },
}
"""By the section's class, a key's old name and its present one: {"GridConfig": {"air_hu": "air_at_hu"}}.

Recipes, overrides and stored configurations are all read by it (shards.section). An entry stays as long as
docs/formats.md promises that the files with the old name are read.
"""


def of_section(cls: type) -> dict[str, str]:
    """Old names and present ones of the keys of a section, its base classes' among them."""
    return {old: new for base in reversed(cls.__mro__) for old, new in RENAMED.get(base.__name__, {}).items()}


def with_present_names(cls: type, values: Mapping[str, Any], warn: bool) -> dict[str, Any]:
    """`values` of a section with each key under its present name, with a warning for each old one on request.

    Raises ValueError where a key is given by both of its names.
    """
    found = dict(values)
    for old, new in of_section(cls).items():
        if old in found:
            if new in found:
                raise ValueError(f"{old} is the old name of {new}, and both are given: remove {old}")
            if warn:
                log.warning("%s: %s is called %s now; the old name is still read", cls.__name__, old, new)
            found[new] = found.pop(old)
    return found
