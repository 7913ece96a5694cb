"""Reason codes in results.parquet of `fmct segment` for results without metrics."""

from enum import StrEnum


class Reason(StrEnum):
    """What is missing in the cohort for a class."""

    NO_TRAINING = "no-training-mask"
    NO_VALIDATION = "no-validation-mask"
    NO_TEST = "no-tested-mask"
    """No test volume has the class; metrics of volumes without it are still reported."""

    @property
    def text(self) -> str:
        """The reason in words."""
        return {
            Reason.NO_TRAINING: "no training volume has it",
            Reason.NO_VALIDATION: "no validation volume has it, for the choice of a threshold",
            Reason.NO_TEST: "no tested volume has it",
        }[self]
