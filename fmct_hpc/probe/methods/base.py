"""What a method of a probe is: its hooks say all that a sweep and a kept classifier ask of one.

A method is a file of this folder with the section of its settings, a class that puts the section under the
method's name, and a class derived from `Method`; registry.py lists them. The configuration of a sweep is read
without PyTorch, so these files import it, and whatever imports it, within functions.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from fmct_hpc.model.tunable import Tunable
    from fmct_hpc.probe.config import ComparisonConfig, Pool
    from fmct_hpc.probe.heads import Head
    from fmct_hpc.probe.methods.finetune import FinetunePool
    from fmct_hpc.probe.problem import Fitted, Problem
    from fmct_hpc.probe.source import Given

Reads = Literal["vectors", "tokens", "volumes"]


class Method:
    """A way to learn labels from what an encoder gives; it holds no state of its own."""

    name: ClassVar[str]
    """In a sweep's `methods`, as the key of its settings, in results and in kept classifiers."""
    reads: ClassVar[Reads] = "vectors"
    """Pooled features of a layer, which are cheap to fit; patch tokens of a layer; or the volumes
    themselves, with the encoder's weights. Of the latter two each task and seed is a unit of its own."""
    draws: ClassVar[bool]
    """Whether training draws at random; without it a seed matters only where it draws the patients."""
    seconds: ClassVar[float]
    """CPU seconds of one problem on 1,000 training volumes with ViT-B's features, measured on one core. They
    share the work out among tasks and are no forecast."""
    kinds: ClassVar[tuple[str, ...] | None] = None
    """Names of the kinds of label (`fmct_hpc.probe.kinds`) that it can learn; None: all."""

    def length(self, config: "ComparisonConfig", volumes: float) -> float:
        """The cost of a problem on so many training volumes relative to `seconds`.

        Grows with the volumes; overridden where a number of steps decides, whatever the volumes.
        """
        return volumes / 1000

    def head(self) -> "type[Head]":
        """The class of the heads that `fit` gives, as which a kept classifier is read."""
        from fmct_hpc.probe.heads import LinearHead

        return LinearHead

    def study_head(self) -> "type[Head]":
        """The same where a sample is a study whose series the head attends to."""
        return self.head()

    def pools(self, config: "ComparisonConfig", pool: "Pool | None") -> "tuple[FinetunePool, ...]":
        """What its heads read of an encoder side by side; nothing where they read the patch tokens."""
        if pool is None:
            return ()
        return ("cls", "mean") if pool == "both" else (pool,)

    def fit(self, given: "Given", problems: "Sequence[Problem]") -> "list[Fitted]":
        """Fit each problem, whose rows are the cohort's; what a method chooses it chooses on validation rows.

        Raises FmctError for what the encoder does not have.
        """
        raise NotImplementedError

    def fit_to_keep(
        self, given: "Given", problems: "Sequence[Problem]"
    ) -> "tuple[list[Fitted], Tunable | None]":
        """`fit`, and the encoder that the heads belong to; None: `given`'s.

        A method that trains the encoder has one problem here.
        """
        return self.fit(given, problems), None
