"""Logistic regression on pooled features, and penalised linear models for labels that are not binary."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fmct_hpc.fields import Above0
from fmct_hpc.probe.methods.base import Method
from shards.section import Section

if TYPE_CHECKING:
    from fmct_hpc.probe.problem import Fitted, Problem
    from fmct_hpc.probe.source import FitInput


class LogisticConfig(Section):
    """Logistic regression along a path of strengths."""

    strengths: tuple[Above0, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
    """Inverse regularisation C as in scikit-learn, ½ ‖w‖² + C Σ loss on standardised features: from a nearly
    constant classifier to a nearly unregularised one, in factors of ten."""


class LogisticKeys(Section):
    """Section `logistic` of a configuration."""

    logistic: LogisticConfig = LogisticConfig()


class Logistic(Method):
    """`fmct_hpc.probe.logistic` for binary labels, `fmct_hpc.probe.penalised` for others."""

    name = "logistic"
    draws = False
    seconds = 1.3

    def fit(self, inputs: "FitInput", problems: "Sequence[Problem]") -> "list[Fitted]":
        """Fit the binary problems in one solve, and the others one by one."""
        from fmct_hpc.probe.logistic import logistic
        from fmct_hpc.probe.penalised import penalised

        features, config = inputs.vectors, inputs.config.logistic
        return _fit_by_kind(
            problems,
            lambda part: logistic(features, part, config),
            lambda part: penalised(features, part, config),
        )


def _fit_by_kind(
    problems: "Sequence[Problem]",
    binary: "Callable[[list[Problem]], list[Fitted]]",
    others: "Callable[[list[Problem]], list[Fitted]]",
) -> "list[Fitted]":
    """Fit binary problems with one function and the others with another; the order is kept."""
    from fmct_hpc.probe.kinds import BINARY

    own, rest = ([p for p in problems if (p.kind == BINARY) == is_binary] for is_binary in (True, False))
    fitted = {True: iter(binary(own) if own else []), False: iter(others(rest) if rest else [])}
    return [next(fitted[problem.kind == BINARY]) for problem in problems]
