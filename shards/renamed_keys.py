"""The table of renamed configuration keys.

Old names are still read: with a warning in recipes and overrides, silently in stored records.
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
"""Old and present names of keys, by section class: {"GridConfig": {"air_hu": "air_at_hu"}}.

It applies to recipes, overrides and stored configurations (shards.section). An entry stays as long as
docs/formats.md promises to read files with the old name.
"""


def of_section(cls: type) -> dict[str, str]:
    """Old and present names of the keys of a section and of its base classes."""
    return {old: new for base in reversed(cls.__mro__) for old, new in RENAMED.get(base.__name__, {}).items()}


def with_present_names(cls: type, values: Mapping[str, Any], warn: bool) -> dict[str, Any]:
    """`values` of a section with each key under its present name; warn: log a warning for each old name.

    Raises ValueError if a key is given under both names.
    """
    renamed = dict(values)
    for old, new in of_section(cls).items():
        if old in renamed:
            if new in renamed:
                raise ValueError(f"{old} is the old name of {new} and both are given: remove {old}")
            if warn:
                log.warning("%s: %s was renamed to %s; the old name is still read", cls.__name__, old, new)
            renamed[new] = renamed.pop(old)
    return renamed
