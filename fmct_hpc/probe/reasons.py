"""Why a cell of a sweep has no figures, or no operating point: the codes in results.parquet."""

from collections.abc import Sequence
from enum import StrEnum

from fmct_hpc.probe.statistics.scored import BoolArray


class Reason(StrEnum):
    """What a cohort lacks for a cell."""

    FEW_TRAINING = "few-training-patients"
    NO_VALIDATION = "no-validation-patients"
    NO_TEST = "no-test-patients"
    ONE_CLASS_TESTED = "one-class-tested"
    NO_POSITIVE_VALIDATION = "no-positive-validation"
    """No threshold of a sensitivity, nor of the best balance, can be chosen."""
    NO_NEGATIVE_VALIDATION = "no-negative-validation"
    """No threshold of a specificity, nor of the best balance, can be chosen."""


class TooFewError(Exception):
    """The cohort is too small for the budget; says which patients lack."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def thresholds_lacking(validation: Sequence[BoolArray]) -> str | None:
    """Why thresholds can't all be chosen on validation volumes of these labels, by fold; None if they can."""
    lacking = [
        *([Reason.NO_POSITIVE_VALIDATION] if not all(labels.any() for labels in validation) else []),
        *([Reason.NO_NEGATIVE_VALIDATION] if not all((~labels).any() for labels in validation) else []),
    ]
    return ", ".join(lacking) or None
