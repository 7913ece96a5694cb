"""Votes of the nearest training volumes by pooled features."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fmct_hpc.fields import Above0, Positive
from fmct_hpc.probe.methods.base import Method
from shards.section import Section

if TYPE_CHECKING:
    from fmct_hpc.probe.heads import Head
    from fmct_hpc.probe.problem import Fitted, Problem
    from fmct_hpc.probe.source import Given


class NeighboursConfig(Section):
    """Nearest neighbours."""

    counts: tuple[Positive, ...] = (5, 10, 20, 50, 100)
    """Numbers of neighbours to choose from: DINO's, and 5 for small sets."""
    temperature: Above0 = 0.07
    """A vote weighs exp(similarity / temperature) (Wu et al. 2018, equation 8)."""


class NeighboursKeys(Section):
    """Its section."""

    neighbours: NeighboursConfig = NeighboursConfig()


class Neighbours(Method):
    """`fmct_hpc.probe.neighbours`; a time to an event has no mean to vote for."""

    name = "neighbours"
    draws = False
    seconds = 0.06
    kinds = ("binary", "multiclass", "ordinal", "regression")

    def head(self) -> "type[Head]":
        """The training volumes."""
        from fmct_hpc.probe.neighbours import VotesHead

        return VotesHead

    def fit(self, given: "Given", problems: "Sequence[Problem]") -> "list[Fitted]":
        """At every number of neighbours."""
        from fmct_hpc.probe.neighbours import neighbours

        return neighbours(given.vectors, problems, given.config.neighbours)
