"""Why a result of `fmct segment` has no figures: the codes in results.parquet."""

from enum import StrEnum


class Reason(StrEnum):
    """What the cohort lacks of a class."""

    NO_TRAINING = "no-training-mask"
    NO_VALIDATION = "no-validation-mask"
    NO_TEST = "no-tested-mask"
    """Of the class; what is predicted in volumes without it still counts."""

    @property
    def told(self) -> str:
        """In words."""
        return {
            Reason.NO_TRAINING: "no training volume has it",
            Reason.NO_VALIDATION: "no validation volume has it, to choose a threshold by",
            Reason.NO_TEST: "no tested volume has it",
        }[self]
