"""The methods by name. Each is a function in a separate file, from a `MethodInput` to one value per patch."""

from collections.abc import Callable

from torch import Tensor

from fmct_hpc.relevance.attention_gradient import attention_gradient
from fmct_hpc.relevance.gradient_input import gradient_input
from fmct_hpc.relevance.integrated_gradients import integrated_gradients
from fmct_hpc.relevance.method_input import MethodInput
from fmct_hpc.relevance.rollout import rollout
from shards.errors import FmctError

METHODS: dict[str, Callable[[MethodInput], Tensor]] = {
    "attention-gradient": attention_gradient,
    "integrated-gradients": integrated_gradients,
    "gradient-input": gradient_input,
    "rollout": rollout,
}
"""Each returns float32 (S, n) for the encoded patches of each series, in their order."""
WITHOUT_HEAD = ("rollout",)
"""Methods for an encoder without a head."""


def require_methods(names: list[str], with_head: bool) -> list[str]:
    """The names without duplicates; raises FmctError for unknown methods, and for a missing head."""
    for name in names:
        if name not in METHODS:
            raise FmctError(f"method {name}: expected one of {', '.join(METHODS)}")
        if not with_head and name not in WITHOUT_HEAD:
            raise FmctError(f"method {name}: requires a classifier; use --classifier, or --method rollout")
    return list(dict.fromkeys(names))
