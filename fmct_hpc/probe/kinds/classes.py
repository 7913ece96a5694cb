"""Common base of kinds with numbered classes: targets, strata, and the loss of the probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fmct_hpc.probe.kinds.base import Kind, Targets
from fmct_hpc.probe.statistics.scored import FloatArray, IntArray

MIN_PROBABILITY = 1e-6
"""Lower bound in log loss, since the vote of neighbours may be 0."""


@dataclass(frozen=True)
class Classes(Kind):
    """Numbered classes; targets (N,) int64 indices in `numbers`, predictions (N, classes) probabilities."""

    numbers: tuple[int, ...] = (0, 1)

    @classmethod
    def over(cls, values: FloatArray) -> Self:
        """The classes in the column."""
        return cls(tuple(int(value) for value in np.unique(values)))

    @property
    def classes(self) -> tuple[int, ...]:
        """The numbers in the table."""
        return self.numbers

    def targets(self, values: FloatArray, times: FloatArray) -> Targets:
        """The index of each value's class; 0 where unknown."""
        known = np.where(np.isnan(values), self.numbers[0], values)
        return np.searchsorted(np.array(self.numbers), known).astype(np.int64)

    def values(self, targets: Targets) -> tuple[FloatArray, NDArray[np.bool_] | None]:
        """The classes' numbers."""
        return np.array(self.numbers, np.float64)[targets], None

    def from_values(self, values: FloatArray, events: NDArray[np.bool_]) -> Targets:
        """The indices of the numbers."""
        return self.targets(values, values)

    def strata(self, targets: Targets) -> IntArray:
        """The classes."""
        return targets.astype(np.int64)

    def stratum_names(self) -> Sequence[str]:
        """As in `0 class 3 training patients`."""
        return tuple(f"class {number}" for number in self.numbers)

    def choice_loss(self, predictions: FloatArray, targets: Targets) -> float:
        """Mean negative log-likelihood."""
        if not len(targets):
            return 0.0
        return float(-np.log(self.of_truth(predictions, targets)).mean())

    def of_truth(self, predictions: FloatArray, targets: Targets) -> FloatArray:
        """The probability of each volume's true class, (N,), at least `MIN_PROBABILITY`."""
        return np.maximum(predictions[np.arange(len(targets)), targets], MIN_PROBABILITY)

    def votes(self, targets: Targets) -> FloatArray:
        """One-hot classes."""
        return np.eye(len(self.numbers))[targets]
