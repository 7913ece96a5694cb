"""Interface of a probe's methods, as used by sweeps and exported classifiers.

A method is a file in this folder with the section of its settings, a class that adds the section under the
method's name, and a class derived from `Method`; registry.py lists them. The configuration of a sweep is read
without PyTorch, so these files import it, and modules that import it, within functions.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from fmct_hpc.model.tunable import Tunable
    from fmct_hpc.probe.config import ComparisonConfig, Pool
    from fmct_hpc.probe.heads import Head
    from fmct_hpc.probe.methods.finetune import FinetunePool
    from fmct_hpc.probe.problem import Fitted, Problem
    from fmct_hpc.probe.source import FitInput

Reads = Literal["vectors", "tokens", "volumes"]


class Method:
    """A method to learn labels from an encoder's outputs; stateless."""

    name: ClassVar[str]
    """Name in a sweep's `methods`, in results and in exported classifiers; key of its settings."""
    reads: ClassVar[Reads] = "vectors"
    """Input: pooled features of a layer, which are cheap to fit; patch tokens of a layer; or the volumes with
    the encoder's weights. For the latter two, each task and seed is a separate unit."""
    draws: ClassVar[bool]
    """Whether training is random; otherwise the seed only affects the choice of patients."""
    seconds: ClassVar[float]
    """CPU seconds per problem with 1,000 training volumes and ViT-B's features, measured on one core. Used to
    balance array tasks, not to predict run times."""
    kinds: ClassVar[tuple[str, ...] | None] = None
    """Names of the supported kinds of label (`fmct_hpc.probe.kinds`); None: all."""

    def length(self, config: "ComparisonConfig", volumes: float) -> float:
        """The cost of a problem with `volumes` training volumes, relative to `seconds`.

        Proportional to the volumes; overridden by methods with a fixed number of steps.
        """
        return volumes / 1000

    def head(self) -> "type[Head]":
        """The class of the heads returned by `fit`, used to read exported classifiers."""
        from fmct_hpc.probe.heads import LinearHead

        return LinearHead

    def study_head(self) -> "type[Head]":
        """The class of heads for studies, if the head attends to their series."""
        return self.head()

    def pools(self, config: "ComparisonConfig", pool: "Pool | None") -> "tuple[FinetunePool, ...]":
        """The poolings concatenated as input of its heads; empty if they read patch tokens."""
        if pool is None:
            return ()
        return ("cls", "mean") if pool == "both" else (pool,)

    def fit(self, inputs: "FitInput", problems: "Sequence[Problem]") -> "list[Fitted]":
        """Fit each problem, given by rows of the cohort; hyperparameters are chosen on validation rows.

        Raises FmctError if the encoder lacks the required outputs.
        """
        raise NotImplementedError

    def fit_to_keep(
        self, inputs: "FitInput", problems: "Sequence[Problem]"
    ) -> "tuple[list[Fitted], Tunable | None]":
        """`fit`, and the encoder of the heads if the method trains it; None: the encoder of `inputs`.

        A method that trains the encoder accepts only one problem here.
        """
        return self.fit(inputs, problems), None
