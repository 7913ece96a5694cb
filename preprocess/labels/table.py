"""The common form of labels from all adapters."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Label = int | float | None
"""1, 0, a value of another kind of label (shards.label_kinds), or None if unknown."""


@dataclass(frozen=True)
class LabelTable:
    """Labels by study, with the hospital's identifiers: kept in memory only."""

    names: tuple[str, ...]
    rows: Mapping[str, tuple[Label, ...]]
    """One value per name, by Study Instance UID (0020,000D)."""
    splits: Mapping[str, str] | None = None
    """train, validation, test or ood by Study Instance UID; None if the source has no splits."""
    rules: Mapping[str, str] = field(default_factory=dict)
    """The rule of `shards.label_kinds.EXPECTED` for each column that is not binary."""
    notes: tuple[str, ...] = ()
    """Parts of the source that are not in it, with reasons: one line each, without identifiers."""
