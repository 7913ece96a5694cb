"""Names of splits in tables of labels and parts: who teaches, who is chosen by, who is tested on."""

from shards.names import is_component

OOD = "ood"
"""A second test set, of another distribution than training's: another hospital, scanner or year."""
SPLITS = ("train", "validation", "test", OOD)
EXPECTED = f"{', '.join(SPLITS)} or {OOD}:NAME"


def is_ood(split: str) -> bool:
    """Whether it is a test set of another distribution: `ood`, or `ood:NAME` where there are several."""
    prefix, colon, name = split.partition(":")
    return prefix == OOD and (not colon or is_component(name))


def is_split(split: str) -> bool:
    """Whether it is one of `SPLITS`, or `ood:NAME` with a plain name (shards.names)."""
    return split in SPLITS or is_ood(split)
