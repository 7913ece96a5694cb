"""Attentive pooling of patch tokens."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fmct_hpc.fields import Above0, AtLeast0, Positive
from fmct_hpc.probe.methods.base import Method
from shards.section import Section

if TYPE_CHECKING:
    from fmct_hpc.probe.config import ComparisonConfig
    from fmct_hpc.probe.heads import Head
    from fmct_hpc.probe.problem import Fitted, Problem
    from fmct_hpc.probe.source import FitInput


class AttentiveConfig(Section):
    """Attentive pooling of patch tokens."""

    queries: Positive = 4
    learning_rates: tuple[Above0, ...] = (1e-3, 3e-3, 1e-2)
    """For AdamW; all are trained at once, and rate and step are chosen on validation."""
    weight_decay: AtLeast0 = 0.1
    steps: Positive = 300
    batch: Positive = 32
    check_every: Positive = 50
    """Steps between evaluations on the validation volumes."""


class AttentiveKeys(Section):
    """Section `attentive` of a configuration."""

    attentive: AttentiveConfig = AttentiveConfig()


class Attentive(Method):
    """`fmct_hpc.probe.attentive`."""

    name = "attentive"
    reads = "tokens"
    draws = True
    seconds = 58.0

    def length(self, config: "ComparisonConfig", volumes: float) -> float:
        """Relative to 300 steps."""
        return config.attentive.steps / 300

    def head(self) -> "type[Head]":
        """The attentive head."""
        from fmct_hpc.probe.attentive import AttentiveHead

        return AttentiveHead

    def study_head(self) -> "type[Head]":
        """The attentive head with an embedding of the series' roles."""
        from fmct_hpc.probe.attentive import StudyAttentiveHead

        return StudyAttentiveHead

    def fit(self, inputs: "FitInput", problems: "Sequence[Problem]") -> "list[Fitted]":
        """Fit the problems one by one, on memory-mapped tokens."""
        from fmct_hpc.probe.attentive import StudyTokens, attentive

        tokens, source, config = inputs.tokens, inputs.source, inputs.config.attentive
        if source.studies is not None:
            return attentive(StudyTokens(tokens, source.places, source.studies[1]), problems, config)
        return attentive(tokens, [source.in_store(problem) for problem in problems], config)
