"""Votes of the nearest training volumes in the space of pooled features."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fmct_hpc.fields import Above0, Positive
from fmct_hpc.probe.methods.base import Method
from shards.section import Section

if TYPE_CHECKING:
    from fmct_hpc.probe.heads import Head
    from fmct_hpc.probe.problem import Fitted, Problem
    from fmct_hpc.probe.source import FitInput


class NeighboursConfig(Section):
    """Nearest neighbours."""

    counts: tuple[Positive, ...] = (5, 10, 20, 50, 100)
    """Candidate numbers of neighbours: those of DINO, and 5 for small datasets."""
    temperature: Above0 = 0.07
    """The weight of a vote is exp(similarity / temperature) (Wu et al. 2018, equation 8)."""


class NeighboursKeys(Section):
    """Section `neighbours` of a configuration."""

    neighbours: NeighboursConfig = NeighboursConfig()


class Neighbours(Method):
    """`fmct_hpc.probe.neighbours`; not for times to an event, which cannot be averaged."""

    name = "neighbours"
    draws = False
    seconds = 0.06
    kinds = ("binary", "multiclass", "ordinal", "regression")

    def head(self) -> "type[Head]":
        """The nearest-neighbour classifier."""
        from fmct_hpc.probe.neighbours import VotesHead

        return VotesHead

    def fit(self, inputs: "FitInput", problems: "Sequence[Problem]") -> "list[Fitted]":
        """Fit with every number of neighbours."""
        from fmct_hpc.probe.neighbours import neighbours

        return neighbours(inputs.vectors, problems, inputs.config.neighbours)
