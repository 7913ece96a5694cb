"""A linear classifier on pooled features, trained by SGD at many learning rates."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fmct_hpc.fields import Above0, Below1, Positive
from fmct_hpc.probe.methods.base import Method
from shards.section import Section

if TYPE_CHECKING:
    from fmct_hpc.probe.config import ComparisonConfig
    from fmct_hpc.probe.problem import Fitted, Problem
    from fmct_hpc.probe.source import FitInput


class LinearConfig(Section):
    """A linear classifier trained by SGD."""

    learning_rates: tuple[Above0, ...] = (
        *(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3),
        *(2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1),
    )
    """For a batch of 256, and scaled with the batch (the thirteen rates of Oquab et al. 2024, DINOv2)."""
    steps: Positive = 1000
    """Eight epochs of 16,000 volumes; DINOv2 uses 12,500 steps for a million images."""
    batch: Positive = 128
    momentum: Below1 = 0.9


class LinearKeys(Section):
    """Section `linear` of a configuration."""

    linear: LinearConfig = LinearConfig()


class Linear(Method):
    """`fmct_hpc.probe.linear`."""

    name = "linear"
    draws = True
    seconds = 0.9
    kinds = ("binary",)

    def length(self, config: "ComparisonConfig", volumes: float) -> float:
        """Relative to 1,000 steps."""
        return config.linear.steps / 1000

    def fit(self, inputs: "FitInput", problems: "Sequence[Problem]") -> "list[Fitted]":
        """Fit problems with the same training volumes together."""
        from fmct_hpc.probe.linear import linear

        return linear(inputs.vectors, problems, inputs.config.linear)
