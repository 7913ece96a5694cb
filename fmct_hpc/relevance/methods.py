"""The methods by name. Each is a function in a file of its own, from a `Question` to a value a patch."""

from collections.abc import Callable

from torch import Tensor

from fmct_hpc.relevance.attention_gradient import attention_gradient
from fmct_hpc.relevance.gradient_input import gradient_input
from fmct_hpc.relevance.integrated_gradients import integrated_gradients
from fmct_hpc.relevance.question import Question
from fmct_hpc.relevance.rollout import rollout
from shards.errors import FmctError

METHODS: dict[str, Callable[[Question], Tensor]] = {
    "attention-gradient": attention_gradient,
    "integrated-gradients": integrated_gradients,
    "gradient-input": gradient_input,
    "rollout": rollout,
}
"""Each gives float32 (S, n), of the encoded patches of each series in their order."""
WITHOUT_HEAD = ("rollout",)
"""What can be asked of an encoder that no label's head reads."""


def require_methods(names: list[str], with_head: bool) -> list[str]:
    """The methods of these names, each once; raises FmctError for an unknown one, or one without its head."""
    for name in names:
        if name not in METHODS:
            raise FmctError(f"method {name}: is none of {', '.join(METHODS)}")
        if not with_head and name not in WITHOUT_HEAD:
            raise FmctError(f"method {name}: needs a label's score; give --classifier, or --method rollout")
    return list(dict.fromkeys(names))
