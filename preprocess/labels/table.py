"""Labels as every adapter gives them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Label = int | float | None
"""1, 0, what another kind of label has (shards.label_kinds), or None where unknown."""


@dataclass(frozen=True)
class LabelTable:
    """Labels by study, in the hospital's own identifiers: it stays in memory."""

    names: tuple[str, ...]
    rows: Mapping[str, tuple[Label, ...]]
    """A value a name, by Study Instance UID (0020,000D)."""
    splits: Mapping[str, str] | None = None
    """train, validation, test or ood by Study Instance UID; None where the source gives none."""
    rules: Mapping[str, str] = field(default_factory=dict)
    """Of the columns that are not binary: the rule of `shards.label_kinds.EXPECTED`."""
    notes: tuple[str, ...] = ()
    """What of the source is not in it, and why: a line each, without identifiers."""
