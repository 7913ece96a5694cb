"""Names of splits in tables of labels and parts: training, validation, test."""

from shards.names import is_component

OOD = "ood"
"""An out-of-distribution test set: another hospital, scanner or year than the training data."""
SPLITS = ("train", "validation", "test", OOD)
EXPECTED = f"{', '.join(SPLITS)} or {OOD}:NAME"


def is_ood(split: str) -> bool:
    """Whether a split is an out-of-distribution test set: `ood`, or `ood:NAME` if there are several."""
    prefix, colon, name = split.partition(":")
    return prefix == OOD and (not colon or is_component(name))


def is_split(split: str) -> bool:
    """Whether a name is one of `SPLITS`, or `ood:NAME` with a plain name (shards.names)."""
    return split in SPLITS or is_ood(split)
