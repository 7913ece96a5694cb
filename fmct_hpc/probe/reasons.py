"""Reason codes in results.parquet for cells of a sweep without figures or without operating point."""

from collections.abc import Sequence
from enum import StrEnum

from fmct_hpc.probe.statistics.scored import BoolArray


class Reason(StrEnum):
    """What is missing in a cohort for a cell."""

    FEW_TRAINING = "few-training-patients"
    NO_VALIDATION = "no-validation-patients"
    NO_TEST = "no-test-patients"
    ONE_CLASS_TESTED = "one-class-tested"
    NO_POSITIVE_VALIDATION = "no-positive-validation"
    """No threshold for a sensitivity or for the best balanced accuracy can be chosen."""
    NO_NEGATIVE_VALIDATION = "no-negative-validation"
    """No threshold for a specificity or for the best balanced accuracy can be chosen."""


class TooFewError(Exception):
    """The cohort is too small for the label budget; the message names the missing patients."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def thresholds_lacking(validation: Sequence[BoolArray]) -> str | None:
    """Reasons why thresholds cannot be chosen, from the validation labels of each fold; None if all can."""
    lacking = [
        *([Reason.NO_POSITIVE_VALIDATION] if not all(labels.any() for labels in validation) else []),
        *([Reason.NO_NEGATIVE_VALIDATION] if not all((~labels).any() for labels in validation) else []),
    ]
    return ", ".join(lacking) or None
